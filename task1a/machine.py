"""Cores, devices and memory of the machine, its software, and the ranks of torchrun."""
import ctypes
import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from task1a.errors import InputError

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Control groups of Linux: their files, and the list of those of this process."""


def cores() -> int:
    """Return the number of cores that this process may use.

    That is its affinity, or less if a batch system or a container allots less. The processor time of a
    container (``docker --cpus``, Kubernetes' limits) is no affinity: more processes than it has cores
    only wait for each other.
    """
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    allotted = os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE", "")
    if allotted.isdecimal():
        available = min(available, int(allotted))
    return max(1, math.ceil(min(available, quota())))


def quota() -> float:
    """Return the processor time that the control groups of Linux allow, in cores; infinity if any.

    A group has at most what the groups around it have. Within a container the uppermost files may be
    those of its own group, whatever path the list gives.
    """
    least = math.inf
    try:
        groups = OWN_CGROUPS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return least
    folders = []
    for line in groups:
        # hierarchy:controllers:path; version 1 has a tree for each set of controllers, version 2
        # one tree without a name
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        path = PurePosixPath(group.lstrip("/"))
        for above in {CGROUPS / "cpu", CGROUPS / controllers}:
            for part in (path, *path.parents):
                folders.append((above / part, bool(controllers)))
    for folder, first_version in folders:
        try:
            if first_version:  # a quota of -1 is no limit
                limit = int((folder / "cpu.cfs_quota_us").read_text())
                period = int((folder / "cpu.cfs_period_us").read_text())
            else:  # "max" is no limit
                limit, period = map(int, (folder / "cpu.max").read_text().split())
        except (OSError, ValueError):
            continue
        if limit > 0 and period > 0:
            least = min(least, limit / period)
    return least


def rank() -> int:
    """Return the rank of this process under torchrun, 0 without it. Only rank 0 writes files."""
    return int(os.environ.get("RANK", 0))


def processes() -> int:
    """Return the number of processes of torchrun, 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def device_of(name: str) -> str:
    """Resolve ``auto`` to ``cuda`` if there is a GPU, and to ``cpu`` otherwise; torch gets a thread
    per core.

    On its own, torch starts a thread for every core of the affinity, whatever a container or batch
    system allots.

    Raises:
        InputError: ``name`` is ``cuda`` and there is no GPU.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise InputError("--device cuda: no CUDA device is available here; use --device cpu")
    if name == "auto":
        return "cuda" if available else "cpu"
    return name


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next tensors of this process.

    By default glibc returns every large block to the system, which clears it page by page for its
    next use. In a training step on a CPU that takes a third to half of the time. Huge pages make it
    cheaper on some machines only. Without effect on other systems.
    """
    trim_threshold, mmap_max = -1, -4  # of <malloc.h>
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2 ** 31 - 1)
    except (OSError, AttributeError):
        pass


def environment(device: str) -> dict[str, Any]:
    """Return versions, git commit, machine and compute device that a run is made with.

    The commit ends with ``+changes`` if files of the checkout differ from it, and is None outside of a
    checkout.
    """
    import torch

    packages = ("torch", "torchaudio", "lightning-fabric", "numpy", "pandas", "scikit-learn",
                "soundfile", "soxr")
    used = device_of(device)
    describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"]
    try:
        commit = subprocess.run(describe, text=True, cwd=Path(__file__).parent, capture_output=True,
                                check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "git_commit": commit,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if used == "cuda" else used,
    }
