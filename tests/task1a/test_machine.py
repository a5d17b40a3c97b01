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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
@pytest.mark.parametrize(("block", "megabytes"), [("numpy.ones(1 << 21)", 16), ("torch.ones(1 << 24)", 64)])
def test_large_blocks_cost_few_page_faults(block, megabytes):
    """A page of 4 KB costs a fault at its first use, unless the system hands out larger ones everywhere."""
    code = ("import resource\nimport numpy, torch\nfrom task1a.machine import keep_freed_memory\nkeep_freed_memory()\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
            f"for _ in range(60): {block}\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)")
    faults = [int(subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout)
              for text in (code, code.replace("\nkeep_freed_memory()", ""))]
    assert faults[0] < faults[1] / 4 or faults[1] < 60 * megabytes * 256 / 10
