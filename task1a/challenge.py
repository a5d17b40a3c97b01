"""Facts of DCASE 2021 Task 1A that everything else is built on: labels, devices, limits, and how a clip is named.

They are those of the organisers' task description, baseline and submission validator. This module imports nothing of
the project.
"""
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
          "street_traffic", "tram")
"""Scene labels in the official, alphabetical order."""

DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
"""Recording devices of the development set's test split."""

LIMIT_BYTES = 131_072
"""Most bytes of non-zero parameters: the 128 KB of the rules, divided by 1,024 as the organisers' tool does."""
WARN_ABOVE_BYTES = 128_000
"""The limit for who reads 128 KB as 128,000 bytes."""

KEY_COLUMNS = ("filename", "scene_label")
"""First columns of a prediction table; a column of probabilities for each label follows."""

SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a clip may sum: room for the rounding of printed numbers."""

CLIP_FOLDER = "audio/"
"""Folder that the name of a clip may begin with, or not, in the official files."""


def clip_name(filename: str) -> str:
    """Normal form of the path of a clip: forward slashes, without ``.`` and empty parts.

    ``audio/x.wav``, ``./audio//x.wav`` and ``audio\\x.wav`` are one clip, which all tables, results and submissions
    name ``audio/x.wav``.
    """
    return PurePosixPath(filename.replace("\\", "/")).as_posix()


def clip_key(filename: str) -> str:
    """Name that clips are compared by: the normal form without the folder ``audio/``."""
    return clip_name(filename).removeprefix(CLIP_FOLDER)


def size_verdict(complexity: Mapping[str, Any]) -> str:
    """One line: the size of a model against the limit.

    Args:
        complexity: what :func:`task1a.complexity.measure` returns, the content of ``complexity.json``.
    """
    size, limit = complexity["policies"][complexity["limit_policy"]], complexity["limit_bytes"]
    line = f"{size['bytes']:,} B ({size['kB']:.2f} kB, {size['KiB']:.2f} KiB) of {limit:,} B"
    if not complexity["within_limit"]:
        return f"{line}: over the limit by {size['bytes'] - limit:,} B"
    if size["bytes"] > complexity["warning_bytes"]:
        return f"{line}: within the limit, but above {complexity['warning_bytes']:,} B, which is how some read 128 KB"
    return f"{line}: within the limit"
