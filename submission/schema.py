"""The schema of the metadata file and of the authors' file: one model for the fields of all
editions.

A field states the years that have it, whether only the authors can know it, and what the
organisers' validators ask of it: of most fields only that they are there. :func:`metadata` and
:func:`authors_file` select the fields of an edition; :mod:`submission.validation.fields` checks a
file against them.
"""
import re
import sys
from collections.abc import Iterator
from copy import copy
from functools import cache, partial
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

NEVER = 9999
"""the year since which a field is required that no validator asks for"""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_SCHEME = re.compile(r"[\x00-\x20]*(?!https?:)[a-z][a-z0-9+.\t\n\r-]*:", re.ASCII | re.IGNORECASE)
_URL = re.compile(r"https?://([a-z0-9-]+\.)+[a-z0-9-]+(:[0-9]{1,5})?([/?#]\S*)?", re.ASCII | re.IGNORECASE)


def _check_text(value: str) -> str:
    if not value.strip() or _CONTROL.search(value):
        raise ValueError("text without control characters")
    return value


def _check_email(value: str) -> str:
    if not _EMAIL.fullmatch(value):
        raise ValueError("an e-mail address")
    return value


def _check_url(value: str) -> str:
    if _SCHEME.match(value):  # a page that links to it would run or open something else
        raise PydanticCustomError("scheme", "an address that starts with https://")
    if not _URL.fullmatch(value):
        raise ValueError("an address that starts with https://")
    return value


Text = Annotated[str, AfterValidator(_check_text)]
Email = Annotated[Text, AfterValidator(_check_email)]
Url = Annotated[Text, AfterValidator(_check_url)]
Count = Annotated[int, Field(ge=0, le=sys.maxsize)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]


class Block(BaseModel):
    """A block of fields, required unless they have a default; its docstring is the comment above
    the block."""

    model_config = ConfigDict(strict=True, extra="forbid", protected_namespaces=())


def _field(comment: str | None = None, since: int = 2021, until: int = 2025, by_authors: bool = False,
           required_since: int = 2021, any_value: bool = False, **settings: Any) -> Any:
    """Describe a field.

    Args:
        comment: written above the field; ``{task}`` stands for the third part of a label.
        since: first edition with the field.
        until: last edition with the field.
        by_authors: only the authors can know the value.
        required_since: first edition whose validator asks for the field; its absence is a warning
            before.
        any_value: the organisers read the value but check it in no edition, so that a wrong type is
            a warning.
        **settings: default and constraints, as for ``pydantic.Field``.
    """
    facts = {"since": since, "until": until, "by_authors": by_authors, "required_since": required_since,
             "any_value": any_value}
    return Field(description=comment, json_schema_extra=facts, **settings)


_value = partial(_field, any_value=True)
_never_required = partial(_field, any_value=True, required_since=NEVER)


class Affiliation(Block):
    """Where the author works."""

    abbreviation: Text = _never_required(
        "Short name of the institute; the corresponding author's is the second part of the label.")
    institute: Text = _never_required("Full name of the university or company.")
    department: Text | None = _never_required(
        "Department or group; null if there is none.", default=None)
    location: Text | None = _never_required("City and country.")


class Author(Block):
    """One of the authors."""

    lastname: Text = _field("Family name.")
    firstname: Text = _field("Given name.")
    email: Email = _field("An address the organisers can write to.")
    corresponding: bool | None = _field(
        "true for exactly one author, the contact of the organisers.", default=None)
    affiliation: Affiliation = _value()


class Submission(Block):
    """What is handed in, and by whom."""

    label: Text = _field(
        "Lastname_Institute_{task}_N, N from 1 to 4, of the corresponding author; the folder's "
        "name and the files' stem.")
    name: Text = _field("Full name of the system, for the result tables.")
    abbreviation: Text = _field(
        "The same for narrow tables: ten characters at most.", max_length=10)
    authors: list[Author] = _field(
        "Everybody who shares in the system, in the order of the report.",
        by_authors=True, min_length=1)


class Description(Block):
    """Key words by which the organisers compare systems; several are separated by commas."""

    input_sampling_rate: Text = _value("Of the audio as the features are computed from it.")
    acoustic_features: Text = _value("What the model sees of a clip.")
    embeddings: Text | None = _value(
        "Pre-trained embedding networks; null if there are none.", until=2023)
    data_augmentation: Text | None = _value(
        "How training clips were varied; null if they were not.")
    machine_learning_method: Text = _value("Kind of model.")
    ensemble_method_subsystem_count: Count | None = _value(
        "Number of models that are combined; null for a single one.", until=2023)
    decision_making: Text | None = _value(
        "How the scene label follows from the model's outputs.", until=2023)
    external_data_usage: Text | None = _value(
        "How data from outside the task was used; null if none was.", by_authors=True)
    complexity_management: Text | None = _value(
        "How the model was brought below the size limit; null if nothing was done.",
        required_since=2022)
    pipeline: Text = _value(
        "Steps from the data to the model that is handed in, in their order.", since=2022)
    framework: Text = _value("Machine learning library.", since=2022)
    split_adaptations: Text | None = _value(
        "What differs between the systems of the splits; null if they were all made alike.",
        since=2024, until=2024, by_authors=True)
    system_adaptations: Text | None = _value(
        "What was done for the sake of little training data; null if nothing was.",
        since=2024, until=2024, by_authors=True)
    device_information: Text | None = _value(
        "How the recording device of a clip is used at inference; null if it is not.", since=2025)
    num_models_at_inference: Annotated[Count, Field(ge=1)] = _value(
        "Number of all models, the general one and those of single devices.", since=2025)
    model_weight_sharing: Literal["fully shared", "partially shared", "fully device-specific"] = _value(
        "How the models of the devices share their weights: fully shared, partially shared or "
        "fully device-specific.", since=2025)


class Complexity(Block):
    """Size of everything that is needed from the features to the probabilities."""

    total_parameters: Count = _field(
        "All stored values, running statistics of normalizations included.")
    total_parameters_non_zero: Count = _value(
        "Those that are not zero.", until=2023, required_since=2022)
    model_size: Number = _field(
        "In KB of 1,024 bytes: each non-zero value counts the bytes of its stored type. The limit "
        "is 128.", until=2021)
    total_model_size: Count = _field(
        "In bytes: every value, zeros too, counts the bytes of its stored type. The limit is "
        "128,000.", since=2023)
    memory_use: Number | None = _value(
        "Peak memory of inference in bytes; null if it was not measured.",
        since=2022, until=2023, by_authors=True)
    macs: Count = _field(
        "Multiply-accumulate operations for one clip of one second. The limit is 30,000,000.",
        since=2022)


class EnergyConsumption(Block):
    """Measured in kWh, all three on the same machine."""

    training: Number = _value("Of the training.", by_authors=True)
    inference: Number = _value("Of predicting the evaluation set.", by_authors=True)
    baseline_inference: Number = _value(
        "Of the same with the organisers' baseline.", by_authors=True)


class ExternalDataset(Block):
    """A data set from outside the task."""

    name: Text = _value("Name of the data set.")
    url: Url | None = _value("Where it can be had.")
    total_audio_length: Number | None = _value("In minutes; null if it is not known.")


class System(Block):
    """How the system works."""

    inference_code: Url = _field(
        "Address of the published inference package.", since=2025, by_authors=True)
    description: Description
    complexity: Complexity
    energy_consumption: EnergyConsumption = _field(since=2023, until=2023)
    external_datasets: list[ExternalDataset] | None = _value(
        "Data from outside the task, each set with name, url and total_audio_length in minutes; "
        "empty if none was used.", by_authors=True)
    source_code: Url | None = _value(
        "Address of the published source code; null if it is not published.", by_authors=True)


def _scores(comment: str, log_loss: str, accuracy: str) -> type[Block]:
    return create_model("Scores", __base__=Block, __doc__=comment,
                        logloss=(Number | None, _field(f"{log_loss}; null if it was not computed.")),
                        accuracy=(Percent | None, _field(f"{accuracy}, in percent.")))


OverallScores = _scores("Over all clips.", "Mean log loss, natural logarithm", "Mean of the classes' accuracies")
ClassScores = _scores("Scores of one class.", "Mean log loss of the class",
                      "Clips of the class that are labelled right")
DeviceScores = _scores("Scores of one device.", "Mean log loss of the device",
                       "Mean of the classes' accuracies within the device")


class Scores(Block):
    """Scores with one share of the training data, or with one choice of models."""

    overall: OverallScores | None
    class_wise: dict[Any, ClassScores] | None = _field("For each scene label, over its clips.")
    device_wise: dict[Any, DeviceScores] | None = _field(
        "For each recording device, over its clips.")


class DevelopmentDataset(Block):
    """On the test split of the development set."""

    overall: OverallScores | None = _field(until=2023)
    class_wise: dict[Any, ClassScores] | None = _field(
        "For each scene label, over its clips.", until=2023)
    device_wise: dict[Any, DeviceScores] | None = _field(
        "For each recording device, over its clips.", until=2023)
    split_5: Scores | None = _field("Trained on 5 % of the training data.", since=2024, until=2024)
    split_10: Scores | None = _field(
        "Trained on 10 % of the training data.", since=2024, until=2024)
    split_25: Scores | None = _field(
        "Trained on 25 % of the training data.", since=2024, until=2024)
    split_50: Scores | None = _field(
        "Trained on 50 % of the training data.", since=2024, until=2024)
    split_100: Scores | None = _field(
        "Trained on 100 % of the training data.", since=2024, until=2024)
    device_specific: Scores | None = _field(
        "With the models of the known devices, and the general model for the others; null if there "
        "is no such result.", since=2025)
    general: Scores | None = _field(
        "With the general model for all devices; null if there is no such result.", since=2025)


class Results(Block):
    """What the system reaches on data whose labels are known."""

    development_dataset: DevelopmentDataset


class Metadata(Block):
    """The metadata file."""

    submission: Submission
    system: System
    results: Results


class AuthorsFile(Block):
    """The authors' file: fields of the metadata file, with the authors at the top."""

    authors: list[Author] = copy(Submission.model_fields["authors"])
    system: System


@cache
def metadata(year: int) -> type[Block]:
    """Return the schema of the metadata file of an edition."""
    return _select(Metadata, year)


@cache
def authors_file(year: int | None) -> type[Block]:
    """Return the schema of the authors' file of an edition; None: of all, with every field
    optional."""
    return _select(AuthorsFile, year, by_authors=True)


def _select(block: type[Block], year: int | None, by_authors: bool = False) -> type[Block]:
    fields: dict[str, Any] = {}
    for name, field in block.model_fields.items():
        kind, facts = field.annotation, field.json_schema_extra or {}
        if year and not facts.get("since", year) <= year <= facts.get("until", year):
            continue
        if hasattr(kind, "model_fields"):
            kind = _select(kind, year, by_authors)
            if not kind.model_fields:
                continue
        elif by_authors and not facts["by_authors"]:
            continue
        # a copy, because pydantic may set the new type on the field that it is given
        chosen = copy(field)
        chosen.json_schema_extra = facts | {"required": facts.get("required_since", 0) <= (year or 0)}
        fields[name] = (kind, chosen) if year else (kind | None, None)
    return create_model(block.__name__, __base__=Block, __doc__=block.__doc__, **fields)


def is_block(kind: Any) -> bool:
    """Return whether the type of a field is a single block, which may be null."""
    alternatives = get_args(kind) if NoneType in get_args(kind) else (kind,)
    return any(hasattr(alternative, "model_fields") for alternative in alternatives)


def leaves(block: type[Block]) -> list[tuple[str, FieldInfo]]:
    """Return the fields that hold a value or a list, by their path: keys joined by dots."""
    found = []
    for path, field in _fields(block):
        if "*" not in path and not is_block(field.annotation):
            found.append((path, field))
    return found


def comments(block: type[Block]) -> dict[str, str]:
    """Return the comments of all fields by path, with ``*`` for an item of a list or a free
    name."""
    found = {}
    for path, field in _fields(block):
        # PYTHONOPTIMIZE=2 leaves no docstrings
        found[path] = field.description or block_in(field.annotation).__doc__ or ""
    return found


def _fields(block: type[Block], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in block.model_fields.items():
        path = f"{above}{name}"
        yield path, field
        inner = block_in(field.annotation)
        if inner:
            yield from _fields(inner, f"{path}." if is_block(field.annotation) else f"{path}.*.")


def block_in(kind: Any) -> type[Block] | None:
    """Return the block that a type consists of, as its items or by itself."""
    if hasattr(kind, "model_fields"):
        return kind
    return next(filter(None, map(block_in, get_args(kind))), None)
