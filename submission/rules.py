"""The rules of the challenge as data: what a submission contains, and the limits.

Task 1 of DCASE 2021 (subtask A) to 2025. Sources: the organisers' descriptions of the task, their
submission validators, the model-size tool of their 2021 baseline, and their template of the
inference package of 2025. The fields of the metadata are in :mod:`submission.schema`.
"""
import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from submission import schema
from task1a.challenge import DEVICES, KEY_COLUMNS, LABELS, LIMIT_BYTES, WARN_ABOVE_BYTES

META_SUFFIX = ".meta.yaml"
DEMO_SUFFIX = " (demo data)"
"""marks the name of a system that was trained on demo data"""
RESULTS = "results.development_dataset"
"""path of the results in the metadata file"""
FOLDER = "task1"
"""the task's folder inside the zip, and the end of the zip's name"""
INFERENCE_SUFFIX = f"_{FOLDER}_inference"
"""end of the name of an inference package's folder"""
INFERENCE_MARK = ".task1a"
"""file that marks an inference package written by this project, which may be replaced"""
INSTALLERS = ("pyproject.toml", "setup.py")
"""files that make a folder a package that pip can install"""


@dataclass(frozen=True)
class Limit:
    """Upper limit of a field of the metadata file."""

    path: str
    """path of the field"""
    max: int
    """in ``unit``"""
    unit: str
    unit_per_field: int = 1
    """number of units in one unit of the field, e.g. bytes in a KB"""
    warn_above: int | None = None
    """the limit under another reading of its unit"""


@dataclass(frozen=True)
class Rules:
    """One edition of the task."""

    year: int
    name: str
    clips: int
    """number of clips of the evaluation set"""
    clip_seconds: float
    """length of a clip"""
    task: str
    """third part of a label"""
    above: tuple[str | None, ...]
    """folders above the labels' folders inside the zip; None is any name"""
    limits: tuple[Limit, ...]
    splits: tuple[str, ...] = ()
    """shares of the training data, for each of which a system has a run, with an output and results
    of its own; only in 2024"""
    device_models: bool = False
    """whether a system may have models of its own for single recording devices, as in 2025: the
    devices of the evaluation clips are known, results are stated with these models and with the
    general model alone, and the code is handed in as an inference package"""
    labels: tuple[str, ...] = LABELS
    """scene labels in the order of the output columns"""
    devices: tuple[str, ...] = DEVICES
    """recording devices of the development set's test split"""
    systems: int = 4
    """maximum number of systems of a team, by the organisers' validator"""
    template_systems: int = 4
    """the same by their template of the metadata file"""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the clips of the evaluation set, without folder."""
        return tuple(f"{index}.wav" for index in range(self.clips))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the system output."""
        return (*KEY_COLUMNS, *self.labels)

    @property
    def metadata(self) -> type[schema.Block]:
        """Schema of the metadata file."""
        return schema.metadata(self.year)

    @property
    def comments(self) -> dict[str, str]:
        """Comments of the fields of the metadata file by path, in the order of the file."""
        return {path: text.format(task=self.task) for path, text in schema.comments(self.metadata).items()}

    @property
    def output_suffixes(self) -> tuple[str, ...]:
        """Ends of the names of a system's outputs, one for each split."""
        return tuple(f".output.{split}.csv" for split in self.splits) or (".output.csv",)

    @property
    def result_blocks(self) -> tuple[str, ...]:
        """Paths of the blocks of results in the metadata file."""
        names = ("device_specific", "general") if self.device_models else self.splits
        return tuple(f"{RESULTS}.{name}" for name in names) or (RESULTS,)

    def runs_of(self, run: Path) -> tuple[Path, ...]:
        """Return the run folders of a system, one for each split, whose name replaces ``{split}``
        in the path."""
        return tuple(Path(str(run).replace("{split}", split)) for split in self.splits) or (Path(run),)

    @property
    def label_pattern(self) -> re.Pattern[str]:
        """Pattern of a whole submission label."""
        # a dot would end the stem for the organisers' validator
        return re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_{self.task}_[1-{self.systems}]", re.ASCII)

    @property
    def label_format(self) -> str:
        """The pattern in words."""
        return f"Lastname_Institute_{self.task}_N of letters, digits, -; N to {self.systems}"


_OPERATIONS = Limit("system.complexity.macs", 30_000_000, "multiply-accumulates")
_BYTES = Limit("system.complexity.total_model_size", 128_000, "bytes")

TASK1A_2021 = Rules(
    year=2021,
    name="DCASE 2021 Task 1A",
    clips=7_920,
    clip_seconds=10.0,
    task="task1a",
    above=(None, FOLDER),
    limits=(Limit("system.complexity.model_size", LIMIT_BYTES, "bytes", unit_per_field=1024,
                  warn_above=WARN_ABOVE_BYTES),),
)

TASK1_2022 = Rules(
    year=2022,
    name="DCASE 2022 Task 1",
    clips=118_800,
    clip_seconds=1.0,
    task="task1",
    above=(FOLDER,),
    limits=(Limit("system.complexity.total_parameters", 128_000, "parameters"), _OPERATIONS),
)

TASK1_2023 = replace(TASK1_2022, year=2023, name="DCASE 2023 Task 1", limits=(_BYTES, _OPERATIONS))

TASK1_2024 = replace(
    TASK1_2023,
    year=2024,
    name="DCASE 2024 Task 1",
    clips=135_730,
    splits=("split_5", "split_10", "split_25", "split_50", "split_100"),
    template_systems=3,
)

TASK1_2025 = replace(
    TASK1_2023,
    year=2025,
    name="DCASE 2025 Task 1",
    clips=178_930,
    device_models=True,
)

EDITIONS = {"2021": TASK1A_2021, "2022": TASK1_2022, "2023": TASK1_2023, "2024": TASK1_2024, "2025": TASK1_2025}
"""rules by the year of the challenge"""


def edition(year: str) -> str:
    """Parse the option ``--edition``, and say why 2026 is not available."""
    if year == "2026":
        raise argparse.ArgumentTypeError("DCASE 2026 has no scene classification task; its Task 1 is \"Heterogeneous "
                                         f"Audio Classification\". Choose from {', '.join(EDITIONS)}")
    return year
