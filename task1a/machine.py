"""What this process may use of the machine, and which of several processes it is."""
import os


def cores() -> int:
    """Number of cores that this process may run on, which may be fewer than there are (affinity)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """Number of this process under torchrun; 0 leads, and is the only one that writes."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """Number of processes under torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))
