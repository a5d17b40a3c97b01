import os
import subprocess
import sys
from pathlib import Path

import pytest

from task1a import machine

DOCKER = "/docker/0a1b"


@pytest.mark.parametrize(("groups", "files", "slurm", "expected"), [
    ("0::/\n", {"cpu.max": "150000 100000"}, {}, 2),  # a container of version 2, whose own group is the top
    ("0::/\n", {"cpu.max": "max 100000"}, {}, 64),
    ("0::/user.slice/job\n", {"user.slice/cpu.max": "300000 100000", "user.slice/job/cpu.max": "800000 100000"}, {}, 3),
    ("0::/user.slice/job\n", {"user.slice/cpu.max": "max 100000", "user.slice/job/cpu.max": "50000 100000"}, {}, 1),
    (f"4:memory:{DOCKER}\n3:cpu,cpuacct:{DOCKER}\n", {"cpu,cpuacct/cpu.cfs_quota_us": "400000",
                                                      "cpu,cpuacct/cpu.cfs_period_us": "100000"}, {}, 4),
    ("1:cpu:/slurm/job_7\n0::/\n", {"cpu/slurm/job_7/cpu.cfs_quota_us": "20000",
                                     "cpu/slurm/job_7/cpu.cfs_period_us": "10000"}, {}, 2),
    ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, {}, 64),
    ("2:cpuset:/x\n", {"cpuset/x/cpu.max": "100000 100000"}, {}, 64),  # not a group of processor time
    ("0::/\n", {"cpu.max": "damaged"}, {}, 64),
    (None, {}, {}, 64),
    (None, {}, {"SLURM_CPUS_PER_TASK": "8", "SLURM_CPUS_ON_NODE": "32"}, 8),
    (None, {}, {"SLURM_CPUS_ON_NODE": "32"}, 32),
    (None, {}, {"SLURM_CPUS_ON_NODE": "128"}, 64),
    (None, {}, {"SLURM_CPUS_ON_NODE": "8(x2)"}, 64),
    ("0::/\n", {"cpu.max": "2000000 100000"}, {"SLURM_CPUS_PER_TASK": "24"}, 20),
])
def test_cores(tmp_path, monkeypatch, groups, files, slurm, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n", encoding="utf-8")
    if groups is not None:
        (tmp_path / "own").write_text(groups, encoding="utf-8")
    assert machine.cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away")
def test_a_process_counts_the_cores_that_are_left_to_it():
    code = ("import os; from task1a.machine import cores; print(cores()); "
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cores())")
    before, after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert int(before) == len(os.sched_getaffinity(0)) and int(after) == 1


@pytest.mark.parametrize(("variable", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "2"}, "2")])
def test_threads_of_torch(variable, expected):
    code = "import torch; from task1a import machine; machine.device_of('cpu'); print(torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**environment, "SLURM_CPUS_PER_TASK": "1", **variable})
    assert done.stdout.strip() == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize(("block", "megabytes"), [("numpy.ones(1 << 21)", 16), ("torch.ones(1 << 24)", 64)])
def test_large_blocks_cost_few_page_faults(start, block, megabytes):
    """A page of 4 KB costs a fault at its first use, unless the system hands out larger ones everywhere."""
    code = ("import resource\nimport numpy, torch\nfrom task1a.machine import keep_freed_memory\nkeep_freed_memory()\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            f"for _ in range(60): {block}\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)")
    Path("kept.py").write_text(code)
    Path("freed.py").write_text(code.replace("\nkeep_freed_memory()", ""))
    faults = [int(start(name).wait().stdout) for name in ("kept.py", "freed.py")]
    assert faults[0] < faults[1] / 4 or faults[1] < 60 * megabytes * 256 / 10
