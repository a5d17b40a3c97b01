"""Cores of the machine, and the ranks of torchrun."""
import os


def cores() -> int:
    """Number of cores that this process may use (its affinity)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """Rank of this process under torchrun, 0 without it. Only rank 0 writes files."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """Number of processes of torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))
