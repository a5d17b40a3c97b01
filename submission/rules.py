"""The rules of the challenge as data: what a submission holds, and what it may not exceed.

Sources: the organisers' description of DCASE 2021 Task 1, their submission validator, and the model-size tool of their
baseline.
"""
import re
from dataclasses import dataclass
from typing import Literal

OUTPUT_SUFFIX = ".output.csv"
META_SUFFIX = ".meta.yaml"

Kind = Literal["block", "list", "optional list", "text", "optional text", "count", "optional count", "number",
               "percent", "flag"]


@dataclass(frozen=True)
class Field:
    """One field of the metadata file."""

    path: str
    """keys joined by dots; ``*`` is every item of a list, or every entry of a block with free names"""
    kind: Kind
    comment: str
    """what an author puts there; written beside the field"""
    required: bool = True


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
    task: str
    """third part of a label"""
    folder: str
    """the task's folder inside the zip, and the end of the zip's name"""
    systems: int
    """most systems a team may hand in"""
    limit_bytes: int
    """greatest size of the non-zero values"""
    warning_bytes: int
    """sizes above are over the limit for who reads 1 KB as 1,000 bytes"""
    abbreviation_length: int
    demo_suffix: str
    """marks the name of a system that was trained on demo data"""
    fields: tuple[Field, ...]
    """of the metadata file, in the order in which they are written"""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the system output."""
        return ("filename", "scene_label", *self.labels)

    @property
    def label_pattern(self) -> re.Pattern[str]:
        """What a submission label must match as a whole."""
        # a dot would end the stem for the organisers' validator
        return re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_{self.task}_[1-{self.systems}]", re.ASCII)

    @property
    def zip_pattern(self) -> re.Pattern[str]:
        """File names of the packages of any team."""
        return re.compile(rf"[A-Za-z0-9-]+_[A-Za-z0-9-]+_{self.folder}\.zip", re.ASCII)


_FIELDS = (
    Field("submission", "block", "What is handed in, and by whom."),
    Field("submission.label", "text", "Lastname_Institute_task1a_N, N from 1 to 4, of the corresponding author; the "
          "folder's name and both files' stem."),
    Field("submission.name", "text", "Full name of the system, for the result tables."),
    Field("submission.abbreviation", "text", "The same for narrow tables: ten characters at most."),
    Field("submission.authors", "list", "Everybody who shares in the system, in the order of the report."),
    Field("submission.authors.*", "block", ""),
    Field("submission.authors.*.lastname", "text", "Family name."),
    Field("submission.authors.*.firstname", "text", "Given name."),
    Field("submission.authors.*.email", "text", "An address the organisers can write to."),
    Field("submission.authors.*.corresponding", "flag", "true at exactly one author: the one who answers the "
          "organisers.", False),
    Field("submission.authors.*.affiliation", "block", "Where the author works."),
    Field("submission.authors.*.affiliation.abbreviation", "text", "Short name of the institute; the corresponding "
          "author's is the second part of the label."),
    Field("submission.authors.*.affiliation.institute", "text", "Full name of the university or company."),
    Field("submission.authors.*.affiliation.department", "optional text", "Department or group; null if there "
          "is none."),
    Field("submission.authors.*.affiliation.location", "optional text", "City and country."),
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
          "none was."),
    Field("system.description.complexity_management", "optional text", "How the model was brought below the size "
          "limit; null if nothing was done."),
    Field("system.complexity", "block", "Size of everything that is needed from the features to the probabilities."),
    Field("system.complexity.total_parameters", "count", "All stored values, running statistics of normalizations "
          "included."),
    Field("system.complexity.total_parameters_non_zero", "count", "Those that are not zero."),
    Field("system.complexity.model_size", "number", "In KB of 1,024 bytes: each non-zero value counts the bytes of its "
          "stored type. The limit is 128."),
    Field("system.external_datasets", "optional list", "Data from outside the task, each set with name, url and "
          "total_audio_length; empty if none was used."),
    Field("system.external_datasets.*", "block", ""),
    Field("system.external_datasets.*.name", "text", "Name of the data set."),
    Field("system.external_datasets.*.url", "text", "Where it can be had."),
    Field("system.external_datasets.*.total_audio_length", "number", "In minutes."),
    Field("system.source_code", "optional text", "Address of the published source code; null if it is not published."),
    Field("results", "block", "What the system reaches on data whose labels are known."),
    Field("results.development_dataset", "block", "On the test split of the development set."),
    Field("results.development_dataset.overall", "block", "Over all clips."),
    Field("results.development_dataset.overall.logloss", "number", "Mean log loss, natural logarithm."),
    Field("results.development_dataset.overall.accuracy", "percent", "Mean of the classes' accuracies, in percent."),
    Field("results.development_dataset.class_wise", "block", "For each scene label, over its clips."),
    Field("results.development_dataset.class_wise.*", "block", ""),
    Field("results.development_dataset.class_wise.*.logloss", "number", "Mean log loss of the class."),
    Field("results.development_dataset.class_wise.*.accuracy", "percent", "Clips of the class that are labelled right, "
          "in percent."),
    Field("results.development_dataset.device_wise", "block", "For each recording device, over its clips."),
    Field("results.development_dataset.device_wise.*", "block", ""),
    Field("results.development_dataset.device_wise.*.logloss", "number", "Mean log loss of the device."),
    Field("results.development_dataset.device_wise.*.accuracy", "percent", "Mean of the classes' accuracies within the "
          "device, in percent."),
)

TASK1A_2021 = Rules(
    name="DCASE 2021 Task 1A",
    labels=("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
            "street_traffic", "tram"),
    devices=("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6"),
    files=tuple(f"{index}.wav" for index in range(7920)),
    task="task1a",
    folder="task1",
    systems=4,
    limit_bytes=131_072,
    warning_bytes=128_000,
    abbreviation_length=10,
    demo_suffix=" (demo data)",
    fields=_FIELDS,
)
