import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores cannot be taken away")
def test_a_process_counts_the_cores_that_are_left_to_it():
    code = ("import os; from task1a.machine import cores; print(cores()); "
            "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(cores())")
    before, after = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()
    assert int(before) == len(os.sched_getaffinity(0)) and int(after) == 1
