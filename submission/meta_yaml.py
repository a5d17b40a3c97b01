"""The metadata file of a system, filled from its run and from the authors' file.

What a run knows is taken from the records it left; what only the authors know comes from one YAML file with a list
``authors``. Sizes are those under the policy that the limit is counted by (``dcase2021``: everything a layer stores),
and a KB is 1,024 bytes, as the official model-size tool has it; the quotient is not rounded, so that the bytes can be
read back from it.
"""
import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from submission.check_meta import check_authors, check_fields
from submission.findings import Finding
from submission.rules import Rules
from task1a.errors import InputError
from task1a.run_folder import RunFolder

EXAMPLE_AUTHORS = Path(__file__).with_name("authors.example.yaml")

_METHODS = {"bcresnet_asc": "BC-ResNet-ASC", "bcresnet": "BC-ResNet", "cp_resnet": "CP-ResNet"}
_FEATURES = {"pcen": "mel energies, PCEN"}  # the other front ends take the logarithm
# letters that Unicode does not decompose into a Latin one and an accent
_LATIN = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe",
                        "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"})


@dataclass(frozen=True)
class Records:
    """What a run left behind of itself, as plain data."""

    config: Mapping[str, Any]
    data: Mapping[str, Any]
    complexity: Mapping[str, Any]
    evaluation: Mapping[str, Any]


def read_records(run: Path) -> Records:
    """Read the records of a run folder.

    Raises:
        InputError: one is missing or unreadable; the message names the stage that makes it.
    """
    folder = RunFolder(Path(run))
    return Records(config=_read_record(folder.config, "data"), data=_read_record(folder.data, "data"),
                   complexity=_read_record(folder.complexity, "complexity"),
                   evaluation=_read_record(folder.evaluation, "evaluate"))


def read_authors(path: Path, rules: Rules) -> list[dict[str, Any]]:
    """Read the authors' file; where nobody is marked as corresponding, the first author is.

    Raises:
        InputError: one line for every problem of the file.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file with authors; start from a copy of {EXAMPLE_AUTHORS}")
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    authors = tree.get("authors") if isinstance(tree, Mapping) else None
    fields = [replace(field, path=field.path.removeprefix("submission.")) for field in rules.fields
              if field.path.startswith("submission.authors")]
    problems = [*check_fields({"authors": authors}, str(path), fields), *check_authors(authors, str(path), "authors")]
    lines = [str(problem).removeprefix("error: ") for problem in problems if problem.level == "error"]
    lines = lines or [str(Finding("error", str(path), field, text, "at least one Latin letter or digit, for the label"))
                      .removeprefix("error: ") for field, text in _label_sources(authors) if not _label_part(text)]
    if lines:
        raise InputError("\n".join(lines))
    first = _corresponding(authors)
    return [{key: value for key, value in author.items() if key != "corresponding"} |
            ({"corresponding": True} if author is first else {}) for author in authors]


def team(authors: Sequence[Mapping[str, Any]]) -> str:
    """The first two parts of a label, ``<Lastname>_<Institute>`` of the corresponding author, in plain letters."""
    return "_".join(_label_part(text) for _, text in _label_sources(authors))


def build(label: str, authors: Sequence[Mapping[str, Any]], records: Records, rules: Rules) -> dict[str, Any]:
    """The metadata of one system, in the order in which it is written.

    Raises:
        KeyError: a record lacks an entry.
    """
    config, size = records.config, records.complexity["policies"][records.complexity["limit_policy"]]
    submission, features = config["submission"], config["features"]
    return {
        "submission": {
            "label": label,
            "name": submission["name"] + (rules.demo_suffix if records.data["demo"] else ""),
            "abbreviation": submission["abbreviation"],
            "authors": [_author(author) for author in authors],
        },
        "system": {
            "description": {
                "input_sampling_rate": f"{features['sample_rate'] / 1000:g}kHz",
                "acoustic_features": _FEATURES.get(config["model"].get("front_end"), "log-mel energies"),
                "embeddings": None,
                "data_augmentation": _augmentation(config["training"]),
                "machine_learning_method": _METHODS.get(config["model"]["name"], config["model"]["name"]),
                "ensemble_method_subsystem_count": len(config["ensemble"]) or None,
                "decision_making": "average" if config["ensemble"] else "maximum likelihood",
                "external_data_usage": None,
                "complexity_management": _compression(config["compression"]),
            },
            "complexity": {
                "total_parameters": size["parameters"],
                "total_parameters_non_zero": size["non_zero"],
                "model_size": size["bytes"] / 1024,
            },
            "external_datasets": [],
            "source_code": submission["source_code"],
        },
        "results": {"development_dataset": {
            "overall": _scores(records.evaluation["overall"]),
            "class_wise": _present(records.evaluation["class_wise"]),
            "device_wise": _present(records.evaluation["device_wise"]),
        }},
    }


def to_text(meta: Mapping[str, Any], rules: Rules) -> str:
    """The metadata as YAML; a comment stands above every field where it occurs for the first time."""
    comments = {field.path: field.comment for field in rules.fields}
    return "\n".join(_lines(meta, (), comments, set())) + "\n"


def _read_record(path: Path, stage: str) -> Mapping[str, Any]:
    again = f"python task1a.py --stage {stage}, with the run's --system and --seed"
    if not path.is_file():
        raise InputError(f"{path}: no such file; make it with: {again}")
    try:
        text = path.read_text(encoding="utf-8")
        record = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path}: damaged: {' '.join(str(error).split())}; make it again with: {again}") from None
    if not isinstance(record, Mapping):
        raise InputError(f"{path}: damaged; make it again with: {again}")
    return record


def _corresponding(authors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((author for author in authors if author.get("corresponding")), authors[0])


def _label_sources(authors: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], tuple[str, str]]:
    author = _corresponding(authors)
    return ("lastname", author["lastname"]), ("affiliation.abbreviation", author["affiliation"]["abbreviation"])


def _label_part(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_LATIN))
    return "".join(c for c in plain if c.isascii() and (c.isalnum() or c == "-")).strip("-")


def _author(author: Mapping[str, Any]) -> dict[str, Any]:
    affiliation = author["affiliation"]
    keys = ("lastname", "firstname", "email", *(("corresponding",) if author.get("corresponding") else ()))
    return {**{key: author[key] for key in keys},
            "affiliation": {key: affiliation[key] for key in ("abbreviation", "institute", "department", "location")}}


def _augmentation(training: Mapping[str, Any]) -> str | None:
    masks = (training["frequency_masks"] and training["frequency_mask_bins"],
             training["time_masks"] and training["time_mask_frames"])
    used = {"mixup": training["mixup_alpha"], "SpecAugment": any(masks), "time rolling": training["roll_seconds"]}
    return ", ".join(name for name, amount in used.items() if amount) or None


def _compression(compression: Mapping[str, Any]) -> str | None:
    if not compression["enabled"]:
        return None
    used = {"pruning": compression["ratio"] or compression["target_bytes"], "weight quantization": True,
            "knowledge distillation": compression["teachers"]}
    return ", ".join(name for name, amount in used.items() if amount)


def _scores(scores: Mapping[str, float]) -> dict[str, float]:
    return {"logloss": scores["logloss"], "accuracy": scores["accuracy"]}


def _present(groups: Mapping[str, Mapping[str, float] | None]) -> dict[str, dict[str, float]]:
    """The scores of the classes or devices that the test split has clips of."""
    return {name: _scores(scores) for name, scores in groups.items() if scores}


def _lines(node: Mapping[str, Any], path: tuple[str, ...], comments: Mapping[str, str],
           said: set[str]) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in node.items():
        # names of classes and devices are free: the table of fields has * in their place
        here = (*path, "*" if ".".join((*path, "*")) in comments else key)
        field = ".".join(here)
        if comments.get(field) and field not in said:
            yield f"{indent}# {comments[field]}"
        said.add(field)
        if not value or not isinstance(value, dict | list):
            yield f"{indent}{_scalar(key)}: {_scalar(value)}"
            continue
        yield f"{indent}{_scalar(key)}:"
        if isinstance(value, dict):
            yield from _lines(value, here, comments, said)
        for item in value if isinstance(value, list) else ():
            yield f"{indent}  -"
            yield from _lines(item, (*here, "*"), comments, said)


def _scalar(value: Any) -> str:
    """A value on one line, quoted where YAML would read something else."""
    for style in (None, '"'):
        text = yaml.safe_dump(value, allow_unicode=True, width=math.inf, default_style=style)
        text = text.removesuffix("\n").removesuffix("\n...")
        if len(text.splitlines()) == 1:
            break
    return text
