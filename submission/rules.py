"""The rules of the challenge as data: what a submission holds, and what it may not exceed.

Task 1 of DCASE 2021 (subtask A) to 2024. Sources: the organisers' descriptions of the task, their submission
validators, and the model-size tool of their 2021 baseline.
"""
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from task1a.challenge import DEVICES, KEY_COLUMNS, LABELS, LIMIT_BYTES, WARN_ABOVE_BYTES

META_SUFFIX = ".meta.yaml"

Kind = Literal["block", "list", "optional list", "text", "optional text", "count", "optional count", "number",
               "optional number", "percent", "flag"]


@dataclass(frozen=True)
class Field:
    """One field of the metadata file."""

    path: str
    """keys joined by dots; ``*`` is every item of a list, or every entry of a block with free names"""
    kind: Kind
    comment: str
    """what an author puts there; written beside the field"""
    required: bool = True
    of_authors: bool = False
    """a run cannot know it: the authors' file says it"""


@dataclass(frozen=True)
class Limit:
    """What a field of the metadata file may not exceed."""

    path: str
    """of the field"""
    max: int
    """in ``unit``"""
    unit: str
    unit_per_field: int = 1
    """how many of the unit the field counts by"""
    warn_above: int | None = None
    """values above are over the limit for who reads its unit otherwise"""


@dataclass(frozen=True)
class Rules:
    """One edition of the task."""

    name: str
    labels: tuple[str, ...]
    """scene labels in the order of the output columns"""
    devices: tuple[str, ...]
    """recording devices of the development set's test split"""
    files: tuple[str, ...]
    """the clips of the evaluation set, without folder"""
    clip_seconds: float
    """length of a clip"""
    task: str
    """third part of a label"""
    above: tuple[str | None, ...]
    """folders above the labels' folders inside the zip; None is any name"""
    splits: tuple[str, ...]
    """shares of the training data that one system was trained on, an output and results for each; none before 2024"""
    systems: int
    """most systems a team may hand in"""
    limits: tuple[Limit, ...]
    abbreviation_length: int
    demo_suffix: str
    """marks the name of a system that was trained on demo data"""
    fields: tuple[Field, ...]
    """of the metadata file, in the order in which they are written"""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the system output."""
        return (*KEY_COLUMNS, *self.labels)

    @property
    def folder(self) -> str:
        """The task's folder inside the zip, and the end of the zip's name."""
        return "task1"

    @property
    def output_suffixes(self) -> tuple[str, ...]:
        """Ends of the names of a system's outputs, one for each split."""
        return tuple(f".output.{split}.csv" for split in self.splits) or (".output.csv",)

    @property
    def result_blocks(self) -> tuple[str, ...]:
        """Paths of the blocks of results in the metadata file, one for each split."""
        block = "results.development_dataset"
        return tuple(f"{block}.{split}" for split in self.splits) or (block,)

    def runs_of(self, run: Path) -> tuple[Path, ...]:
        """The run folders of a system: the only one, or that of each split, its name for ``{split}`` in the path."""
        return tuple(Path(str(run).replace("{split}", split)) for split in self.splits) or (Path(run),)

    @property
    def label_pattern(self) -> re.Pattern[str]:
        """What a submission label must match as a whole."""
        # a dot would end the stem for the organisers' validator
        return re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_{self.task}_[1-{self.systems}]", re.ASCII)

    @property
    def zip_pattern(self) -> re.Pattern[str]:
        """File names of the packages of any team."""
        return re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_{self.folder}\.zip", re.ASCII)


def _submission(task: str) -> tuple[Field, ...]:
    return (
        Field("submission", "block", "What is handed in, and by whom."),
        Field("submission.label", "text", f"Lastname_Institute_{task}_N, N from 1 to 4, of the corresponding author; "
              "the folder's name and the files' stem."),
        Field("submission.name", "text", "Full name of the system, for the result tables."),
        Field("submission.abbreviation", "text", "The same for narrow tables: ten characters at most."),
        Field("submission.authors", "list", "Everybody who shares in the system, in the order of the report.",
              of_authors=True),
        Field("submission.authors.*", "block", "", of_authors=True),
        Field("submission.authors.*.lastname", "text", "Family name.", of_authors=True),
        Field("submission.authors.*.firstname", "text", "Given name.", of_authors=True),
        Field("submission.authors.*.email", "text", "An address the organisers can write to.", of_authors=True),
        Field("submission.authors.*.corresponding", "flag", "true at exactly one author: the one who answers the "
              "organisers.", required=False, of_authors=True),
        Field("submission.authors.*.affiliation", "block", "Where the author works.", of_authors=True),
        Field("submission.authors.*.affiliation.abbreviation", "text", "Short name of the institute; the corresponding "
              "author's is the second part of the label.", of_authors=True),
        Field("submission.authors.*.affiliation.institute", "text", "Full name of the university or company.",
              of_authors=True),
        Field("submission.authors.*.affiliation.department", "optional text", "Department or group; null if there "
              "is none.", of_authors=True),
        Field("submission.authors.*.affiliation.location", "optional text", "City and country.", of_authors=True),
    )


_DESCRIPTION = (
    Field("system", "block", "How the system works."),
    Field("system.description", "block", "Key words by which the organisers compare systems; several are separated by "
          "commas."),
    Field("system.description.input_sampling_rate", "text", "Of the audio as the features are computed from it."),
    Field("system.description.acoustic_features", "text", "What the model sees of a clip."),
    Field("system.description.embeddings", "optional text", "Pre-trained embedding networks; null if there are none."),
    Field("system.description.data_augmentation", "optional text", "How training clips were varied; null if they were "
          "not."),
    Field("system.description.machine_learning_method", "text", "Kind of model."),
    Field("system.description.ensemble_method_subsystem_count", "optional count", "Number of models that are "
          "combined; null for a single one."),
    Field("system.description.decision_making", "optional text", "How the scene label follows from the model's "
          "outputs."),
    Field("system.description.external_data_usage", "optional text", "How data from outside the task was used; null if "
          "none was.", of_authors=True),
    Field("system.description.complexity_management", "optional text", "How the model was brought below the size "
          "limit; null if nothing was done."),
)

_PIPELINE = (
    Field("system.description.pipeline", "text", "Steps from the data to the model that is handed in, in their order."),
    Field("system.description.framework", "text", "Machine learning library."),
)

_SPLIT_DESCRIPTION = (
    Field("system.description.split_adaptations", "optional text", "What differs between the systems of the splits; "
          "null if they were all made alike.", of_authors=True),
    Field("system.description.system_adaptations", "optional text", "What was done for the sake of little training "
          "data; null if nothing was.", of_authors=True),
)

_PARAMETERS = (
    Field("system.complexity", "block", "Size of everything that is needed from the features to the probabilities."),
    Field("system.complexity.total_parameters", "count", "All stored values, running statistics of normalizations "
          "included."),
)
_NON_ZERO = Field("system.complexity.total_parameters_non_zero", "count", "Those that are not zero.")
_MODEL_SIZE = Field("system.complexity.model_size", "number", "In KB of 1,024 bytes: each non-zero value counts the "
                    "bytes of its stored type. The limit is 128.")
_TOTAL_SIZE = Field("system.complexity.total_model_size", "count", "In bytes: every value, zeros too, counts the bytes "
                    "of its stored type. The limit is 128,000.")
_MEMORY_USE = Field("system.complexity.memory_use", "optional number", "Peak memory of inference in bytes; null if it "
                    "was not measured.", of_authors=True)
_MACS = Field("system.complexity.macs", "count", "Multiply-accumulate operations for one clip of one second. The limit "
              "is 30,000,000.")

_ENERGY = (
    Field("system.energy_consumption", "block", "Measured in kWh, all three on the same machine.", of_authors=True),
    Field("system.energy_consumption.training", "number", "Of the training.", of_authors=True),
    Field("system.energy_consumption.inference", "number", "Of predicting the evaluation set.", of_authors=True),
    Field("system.energy_consumption.baseline_inference", "number", "Of the same with the organisers' baseline.",
          of_authors=True),
)

_SOURCES = (
    Field("system.external_datasets", "optional list", "Data from outside the task, each set with name, url and "
          "total_audio_length in minutes; empty if none was used.", of_authors=True),
    Field("system.external_datasets.*", "block", "", of_authors=True),
    Field("system.external_datasets.*.name", "text", "Name of the data set.", of_authors=True),
    Field("system.external_datasets.*.url", "text", "Where it can be had.", of_authors=True),
    Field("system.external_datasets.*.total_audio_length", "number", "In minutes.", of_authors=True),
    Field("system.source_code", "optional text", "Address of the published source code; null if it is not published.",
          of_authors=True),
)


def _results(splits: tuple[str, ...]) -> tuple[Field, ...]:
    top = "results.development_dataset"
    blocks = [Field(f"{top}.{split}", "block", f"Trained on {split.removeprefix('split_')} % of the training data.")
              for split in splits]
    fields = [Field("results", "block", "What the system reaches on data whose labels are known."),
              Field(top, "block", "On the test split of the development set.")]
    for block in blocks or [None]:
        path = block.path if block else top
        fields += [block] if block else []
        fields += [
            Field(f"{path}.overall", "block", "Over all clips."),
            Field(f"{path}.overall.logloss", "number", "Mean log loss, natural logarithm."),
            Field(f"{path}.overall.accuracy", "percent", "Mean of the classes' accuracies, in percent."),
            Field(f"{path}.class_wise", "block", "For each scene label, over its clips."),
            Field(f"{path}.class_wise.*", "block", ""),
            Field(f"{path}.class_wise.*.logloss", "number", "Mean log loss of the class."),
            Field(f"{path}.class_wise.*.accuracy", "percent", "Clips of the class that are labelled right, in "
                  "percent."),
            Field(f"{path}.device_wise", "block", "For each recording device, over its clips."),
            Field(f"{path}.device_wise.*", "block", ""),
            Field(f"{path}.device_wise.*.logloss", "number", "Mean log loss of the device."),
            Field(f"{path}.device_wise.*.accuracy", "percent", "Mean of the classes' accuracies within the device, in "
                  "percent."),
        ]
    return tuple(fields)


def _without(fields: tuple[Field, ...], *names: str) -> tuple[Field, ...]:
    return tuple(field for field in fields if field.path.rsplit(".", 1)[-1] not in names)


_OPERATIONS = Limit("system.complexity.macs", 30_000_000, "multiply-accumulates")
_BYTES = Limit("system.complexity.total_model_size", 128_000, "bytes")
_SPLITS = tuple(f"split_{percent}" for percent in (5, 10, 25, 50, 100))

TASK1A_2021 = Rules(
    name="DCASE 2021 Task 1A",
    labels=LABELS,
    devices=DEVICES,
    files=tuple(f"{index}.wav" for index in range(7_920)),
    clip_seconds=10.0,
    task="task1a",
    above=(None, "task1"),
    splits=(),
    systems=4,
    limits=(Limit("system.complexity.model_size", LIMIT_BYTES, "bytes", unit_per_field=1024,
                  warn_above=WARN_ABOVE_BYTES),),
    abbreviation_length=10,
    demo_suffix=" (demo data)",
    fields=(*_submission("task1a"), *_DESCRIPTION, *_PARAMETERS, _NON_ZERO, _MODEL_SIZE, *_SOURCES, *_results(())),
)

TASK1_2022 = replace(
    TASK1A_2021,
    name="DCASE 2022 Task 1",
    files=tuple(f"{index}.wav" for index in range(118_800)),
    clip_seconds=1.0,
    task="task1",
    above=("task1",),
    limits=(Limit("system.complexity.total_parameters", 128_000, "parameters"), _OPERATIONS),
    fields=(*_submission("task1"), *_DESCRIPTION, *_PIPELINE, *_PARAMETERS, _NON_ZERO, _MEMORY_USE, _MACS, *_SOURCES,
            *_results(())),
)

TASK1_2023 = replace(
    TASK1_2022,
    name="DCASE 2023 Task 1",
    limits=(_BYTES, _OPERATIONS),
    fields=(*_submission("task1"), *_DESCRIPTION, *_PIPELINE, *_PARAMETERS, _NON_ZERO, _TOTAL_SIZE, _MEMORY_USE, _MACS,
            *_ENERGY, *_SOURCES, *_results(())),
)

TASK1_2024 = replace(
    TASK1_2023,
    name="DCASE 2024 Task 1",
    files=tuple(f"{index}.wav" for index in range(135_730)),
    splits=_SPLITS,
    fields=(*_submission("task1"),
            *_without(_DESCRIPTION, "embeddings", "ensemble_method_subsystem_count", "decision_making"), *_PIPELINE,
            *_SPLIT_DESCRIPTION, *_PARAMETERS, _TOTAL_SIZE, _MACS, *_SOURCES, *_results(_SPLITS)),
)

EDITIONS = {"2021": TASK1A_2021, "2022": TASK1_2022, "2023": TASK1_2023, "2024": TASK1_2024}
"""the rules by the year of the challenge"""
