"""Software and hardware that a run was made with."""
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from task1a.machine import device_of


def environment(device: str) -> dict[str, Any]:
    """Versions of Python and packages, git commit, machine and device."""
    packages = ("torch", "torchaudio", "lightning-fabric", "numpy", "pandas", "scikit-learn", "soundfile", "soxr")
    used = device_of(device)
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if used == "cuda" else used,
    }


def _git_commit() -> str | None:
    """The commit of this checkout, with ``+changes`` if files differ from it; None outside of a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+changes"], text=True,
            cwd=Path(__file__).parent, capture_output=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
