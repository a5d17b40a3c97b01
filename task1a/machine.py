"""Cores and devices of the machine, and the ranks of torchrun."""
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
