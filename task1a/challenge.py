"""Facts of DCASE 2021 Task 1A: labels, devices, limits, and names of clips.

Source: the organisers' task description, baseline and submission validator. This module imports
nothing of the project.
"""
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall",
          "street_pedestrian", "street_traffic", "tram")
"""Scene labels in the official, alphabetical order."""

DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
"""Recording devices of the development set's test split."""

SIMULATED_DEVICES = ("s1", "s2", "s3", "s4", "s5", "s6")
"""Devices of the TAU sets whose recordings were computed from those of device ``a``; the others are
real."""

LIMIT_BYTES = 131_072
"""Maximum size of the non-zero parameters: the rules' 128 KB, with 1,024 bytes per KB as in the
organisers' tool."""
WARN_ABOVE_BYTES = 128_000
"""The limit with 1,000 bytes per KB."""

KEY_COLUMNS = ("filename", "scene_label")
"""First columns of a prediction table, before one column of probabilities per label."""

SUM_TOLERANCE = 1e-3
"""Tolerance for the sum of a clip's probabilities, whose printed digits are rounded."""

CLIP_FOLDER = "audio/"
"""Folder that the official files write before the name of a clip, or leave out."""


def clip_name(filename: str) -> str:
    """Normalise the path of a clip: forward slashes, no ``.`` and no empty parts.

    ``./audio//x.wav`` and ``audio\\x.wav`` are the clip ``audio/x.wav``.
    """
    name = filename.replace("\\", "/")
    if not name.startswith(("/", ".")) and "/." not in name and "//" not in name and not name.endswith("/") and name:
        # as nearly all are; a path object would take most of the time of reading a table
        return name
    return PurePosixPath(name).as_posix()


def clip_key(filename: str) -> str:
    """Return the normalised path of a clip without the folder ``audio/``, by which clips are
    compared."""
    return clip_name(filename).removeprefix(CLIP_FOLDER)


def size_verdict(complexity: Mapping[str, Any]) -> str:
    """Return the size of a model and the limit, in one line.

    Args:
        complexity: the content of ``complexity.json``, from :func:`task1a.complexity.measure`.
    """
    size, limit = complexity["policies"][complexity["limit_policy"]], complexity["limit_bytes"]
    line = f"{size['bytes']:,} B ({size['kB']:.2f} kB, {size['KiB']:.2f} KiB) of {limit:,} B"
    if not complexity["within_limit"]:
        return f"{line}: over the limit by {size['bytes'] - limit:,} B"
    if size["bytes"] > complexity["warning_bytes"]:
        return f"{line}: within the limit, but above {complexity['warning_bytes']:,} B (128 KB of 1,000 bytes)"
    return f"{line}: within the limit"
