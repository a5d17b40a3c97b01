"""The data set of a command: a development set and, optionally, an evaluation set.

Each table is read once, by :mod:`task1a.data.tau_layout`.
"""
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from task1a.data import tau_layout

_SPLITS = {"development": ("train", "test"), "evaluation": ("evaluation",)}
"""Splits whose clips are used; a development set has unused clips as well."""


@dataclass(frozen=True)
class Dataset:
    """Folders and clips of the sets."""

    development: Path
    """folder of the development set"""
    evaluation: Path | None = None
    """folder of the evaluation set"""

    @property
    def roots(self) -> dict[str, Path]:
        """Folders by the name of the set, ``development`` or ``evaluation``."""
        folders = {"development": self.development, "evaluation": self.evaluation}
        return {name: folder for name, folder in folders.items() if folder is not None}

    @property
    def splits(self) -> dict[str, str]:
        """Name of the set that each split belongs to; the splits are ``train``, ``test`` and
        ``evaluation``."""
        return {split: name for name in self.roots for split in _SPLITS[name]}

    @cached_property
    def clips(self) -> pd.DataFrame:
        """All clips of the development set; the split of a clip that is in both splits is ``both``."""
        return tau_layout.read_development(self.development, allow_overlap=True)

    @cached_property
    def evaluation_clips(self) -> pd.DataFrame:
        """The clips of the evaluation set."""
        if self.evaluation is None:
            raise ValueError("there is no evaluation set")
        return tau_layout.read_evaluation(self.evaluation)

    def split(self, name: str) -> pd.DataFrame:
        """Return the clips of ``train``, ``test`` or ``evaluation``, in the order of the tables.

        Raises:
            InputError: a table is missing or malformed, or clips are in both the train and the test
                split.
        """
        if name == "evaluation":
            return self.evaluation_clips
        tau_layout.check_overlap(self.development, self.clips)
        return self.clips[self.clips.split == name].reset_index(drop=True)

    def filenames(self, name: str) -> Sequence[str]:
        """Return the file names of the used clips of a set."""
        names: list[str] = []
        for split in _SPLITS[name]:
            names += self.split(split).filename.tolist()
        return names
