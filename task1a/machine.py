"""Cores, devices and memory of the machine, and the ranks of torchrun."""
import ctypes
import os

from task1a.errors import InputError


def cores() -> int:
    """Number of cores that this process may use (its affinity)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """Rank of this process under torchrun, 0 without it. Only rank 0 writes files."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """Number of processes of torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device_of(name: str) -> str:
    """Resolve ``auto`` to ``cuda`` if there is a GPU, and to ``cpu`` otherwise.

    Raises:
        InputError: ``name`` is ``cuda`` and there is no GPU.
    """
    import torch

    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: no CUDA device is available here; use --device cpu")
    if name == "auto":
        return "cuda" if available else "cpu"
    return name


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors of this process.

    By default glibc returns every large block to the system, which clears it page by page for its next use. In a
    training step on a CPU that takes a third to half of the time. Huge pages make it cheaper on some machines only.
    Without effect on other systems.
    """
    trim_threshold, mmap_max = -1, -4  # of <malloc.h>
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2 ** 31 - 1)
    except (OSError, AttributeError):
        pass
