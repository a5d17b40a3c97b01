"""What this process may use of the machine."""
import os


def cores() -> int:
    """Number of cores that this process may run on, which may be fewer than there are (affinity)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
