"""Worker processes under signals."""
import os
import signal
import subprocess
import sys
import time

import pytest

CODE = """
import sys
import time
from task1a.errors import run_command
from task1a.workers import parallel_map

def main():
    with parallel_map(100, 1, 1, 2) as mapped:
        for _ in mapped(time.sleep, [0.02] * 500):
            print("done", flush=True)
    return 0

if __name__ == "__main__":
    sys.exit(run_command(main))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "status", "by"), [(signal.SIGTERM, 143, " by SIGTERM"), (signal.SIGINT, 130, "")])
def test_signal_to_all_processes(tmp_path, number, status, by):
    (tmp_path / "command.py").write_text(CODE, encoding="utf-8")
    with subprocess.Popen([sys.executable, tmp_path / "command.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as command:
        assert command.stdout.readline() == "done\n"
        os.killpg(command.pid, number)
        _, said = command.communicate(timeout=60)
        assert (command.returncode, said) == (status, f"interrupted{by}; run the same command again to resume\n")
    with pytest.raises(ProcessLookupError):  # no worker is left
        for _ in range(100):
            os.killpg(command.pid, 0)
            time.sleep(0.1)
