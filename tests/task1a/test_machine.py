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
def test_freed_memory_is_used_again():
    """A block of 64 MB costs a page fault for each of its 16,384 pages, but only once."""
    code = ("import resource, numpy\nfrom task1a.machine import keep_freed_memory\nkeep_freed_memory()\n"
            "for _ in range(10): numpy.ones(1 << 23)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)")
    faults = [int(subprocess.run([sys.executable, "-c", text], capture_output=True, text=True).stdout)
              for text in (code, code.replace("\nkeep_freed_memory()", ""))]
    assert faults[1] - faults[0] > 100_000 or faults[1] < 30_000  # huge pages have few faults in any case
