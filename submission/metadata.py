"""The metadata file of a system, filled from its runs and from the authors' file.

Sizes are those under the policy of the limit (``dcase2021``: everything a layer stores). A KB is 1,024 bytes, as in the
official model-size tool, and is not rounded, so that the number of bytes can be recovered from it.

The YAML is written here because ruamel.yaml, which keeps comments, quotes by the rules of YAML 1.2: the name ``No`` and
the number ``1e-05`` would be read as something else by the YAML 1.1 readers of the organisers.
"""
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from submission.rules import DEMO_SUFFIX, META_SUFFIX, Rules
from submission.validation.findings import Finding
from task1a.config import NETWORKS
from task1a.pipeline.run import Run


@dataclass(frozen=True)
class Records:
    """Records of a run, as plain data."""

    run: Path
    """folder of the run"""
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    complexity: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    environment: Mapping[str, Any] | None = None
    """None if nothing was trained in the run itself"""
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """configurations of the runs of an ensemble, as far as they still exist"""
    general: "Records | None" = None
    """records of the general model's run, if single devices have models of their own"""


def read_records(run: Path) -> Records:
    """Read the records of a run folder.

    Raises:
        InputError: a record is missing or unreadable; the message names the stage that makes it.
    """
    opened = Run(run)
    members = {}
    for name, member in zip(opened.config.ensemble, opened.models if opened.config.ensemble else (), strict=True):
        if member.config_file.is_file():
            members[name] = asdict(member.config)
    environment = opened.read("environment") if opened.environment.is_file() else None
    general = read_records(opened.models[0].folder) if opened.config.device_models else None
    return Records(opened.folder, asdict(opened.config), opened.read("data"), opened.read("complexity"),
                   opened.read("evaluation"), environment, members, general)


def build(label: str, given: Mapping[str, Any], records: Sequence[Records], rules: Rules) -> dict[str, Any]:
    """The metadata of one system, in the order of the file.

    Args:
        label: label of the system.
        given: values of the authors' file by path; None keeps the value of the run.
        records: records of the system's run, or of one run for each split.
        rules: the edition.

    Raises:
        KeyError: a record lacks an entry.
    """
    last = records[-1]
    own = last.config["submission"]
    values = {"submission.label": label,
              "submission.name": own["name"] + (DEMO_SUFFIX if last.data["demo"] else ""),
              "submission.abbreviation": own["abbreviation"],
              "system.source_code": own["source_code"]}
    for key, value in _description(last.config).items():
        values[f"system.description.{key}"] = value
    for path, found in sizes(records, rules).items():
        values[path] = None if None in found else max(found)
    for block, judged in results(records, rules).items():
        if judged is None:
            values[block] = None
            continue
        values[f"{block}.overall"] = _scores(judged.evaluation["overall"])
        for group in ("class_wise", "device_wise"):
            # classes and devices without clips in the test split have no scores
            values[f"{block}.{group}"] = {name: _scores(scores) for name, scores in judged.evaluation[group].items()
                                          if scores}
    for path, value in given.items():
        if value is not None or path not in values:
            values[path] = value
    return nested({path: values[path] for path in rules.comments if path in values})


def results(records: Sequence[Records], rules: Rules) -> dict[str, Records | None]:
    """The records whose evaluation each block of results states; None where the system has no such results.

    Args:
        records: records of the system's run, or of one run for each split.
        rules: the edition.
    """
    judged = list(records)
    if rules.device_models:
        [record] = records
        judged = [record, record.general] if record.general else [None, record]
    return dict(zip(rules.result_blocks, judged, strict=True))


def sizes(records: Sequence[Records], rules: Rules) -> dict[str, list[Any]]:
    """The size of each run, by the fields in which the edition states it; None is not known."""
    values: dict[str, list[Any]] = {}
    for record in records:
        size = record.complexity["policies"][record.complexity["limit_policy"]]
        stored_bits = sum(int(bits) * part["parameters"] for bits, part in size["by_bits"].items())
        of_run = {"total_parameters": size["parameters"], "total_parameters_non_zero": size["non_zero"],
                  "model_size": size["bytes"] / 1024, "total_model_size": -(-stored_bits // 8),
                  "macs": record.complexity["multiply_accumulates"]}
        for key, value in of_run.items():
            if f"system.complexity.{key}" in rules.comments:
                values.setdefault(f"system.complexity.{key}", []).append(value)
    return values


def differing_sizes(label: str, records: Sequence[Records], rules: Rules) -> list[Finding]:
    """Warn about every size that differs between the splits of a system."""
    return [Finding("warning", f"{label}{META_SUFFIX}", path, " / ".join(f"{value:,}" for value in found),
                    "the same for all splits; the largest is stated")
            for path, found in sizes(records, rules).items() if len(set(found)) > 1 and None not in found]


def wrong_shares(file: str, records: Sequence[Records], rules: Rules) -> list[Finding]:
    """Find out whether the runs of a system's splits were trained on their shares of the training data.

    Args:
        file: name of the metadata file in findings.
        records: records of the system's run, or of one run for each split.
        rules: the edition; without splits nothing is found.

    Raises:
        KeyError: a record lacks the number of training clips.
    """
    shares = [int(split.rpartition("_")[2]) for split in rules.splits]
    counts = [record.data["clips"]["train"] for record in records] if shares else []
    whole = max(counts, default=0)
    # the organisers' shares are not exact; the smallest steps, from 5 to 10 %, are far wider than the tolerance
    if all(abs(count - whole * share / 100) <= 0.1 * whole * share / 100 + 1
           for share, count in zip(shares, counts, strict=False)):
        return []
    return [Finding("error", file, "", f"runs with {' / '.join(f'{count:,}' for count in counts)} training clips",
                    f"{' / '.join(map(str, shares))} % of {whole:,} clips, a run for each share")]


def _description(config: Mapping[str, Any]) -> dict[str, Any]:
    training, compression, members = config["training"], config["compression"], config["ensemble"]
    devices = config["device_models"]
    compressed = compression["enabled"]
    pruning = compressed and (compression["ratio"] or compression["target_bytes"])
    distillation = compressed and compression["teachers"]
    masks = (training["frequency_masks"] and training["frequency_mask_bins"]
             or training["time_masks"] and training["time_mask_frames"])
    return {
        "input_sampling_rate": f"{config['features']['sample_rate'] / 1000:g}kHz",
        "acoustic_features": "mel energies, PCEN" if config["model"]["front_end"] == "pcen" else "log-mel energies",
        "embeddings": None,
        "data_augmentation": _used({"mixup": training["mixup_alpha"], "SpecAugment": masks,
                                    "time rolling": training["roll_seconds"]}),
        "machine_learning_method": NETWORKS[config["model"]["name"]].title,
        "ensemble_method_subsystem_count": len(members) or None,
        "decision_making": "average" if members else "maximum likelihood",
        "complexity_management": _used({"pruning": pruning, "weight quantization": compressed,
                                        "knowledge distillation": distillation}),
        "pipeline": _used({"training": True, "device-specific fine-tuning": devices, "pruning": pruning,
                           "quantization-aware training": compressed, "knowledge distillation": distillation,
                           "calibration": training["calibrate"]}),
        "framework": "pytorch",
        "device_information": "per-device end-to-end fine-tuning" if devices else None,
        "num_models_at_inference": 1 + len(devices),
        "model_weight_sharing": "fully device-specific" if devices else "fully shared",
    }


def _used(steps: Mapping[str, Any]) -> str | None:
    """The names of the steps whose amount is not zero."""
    return ", ".join(name for name, amount in steps.items() if amount) or None


def _scores(scores: Mapping[str, float]) -> dict[str, float]:
    return {"logloss": scores["logloss"], "accuracy": scores["accuracy"]}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nest values that are given by path (keys joined by dots), in the same order."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *above, key = path.split(".")
        block = tree
        for name in above:
            block = block.setdefault(name, {})
        block[key] = value
    return tree


def to_text(tree: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Write a tree as YAML, with a comment above every field where it occurs first.

    Args:
        tree: blocks, lists of blocks, and plain values.
        comments: comments by path; ``*`` stands for an item of a list or a free name.
    """
    return "\n".join(_lines(tree, (), comments, set())) + "\n"


def _lines(node: Mapping[str, Any], path: tuple[str, ...], comments: Mapping[str, str],
           commented: set[str]) -> Iterator[str]:
    indent = "  " * len(path)
    for key, value in node.items():
        here = (*path, key if ".".join((*path, str(key))) in comments else "*")
        field = ".".join(here)
        if comments.get(field) and field not in commented:
            yield f"{indent}# {comments[field]}"
        commented.add(field)
        if not value or not isinstance(value, dict | list):
            yield f"{indent}{_scalar(key)}: {_scalar(value)}"
            continue
        yield f"{indent}{_scalar(key)}:"
        if isinstance(value, dict):
            yield from _lines(value, here, comments, commented)
            continue
        for item in value:
            yield f"{indent}  -"
            yield from _lines(item, (*here, "*"), comments, commented)


def _scalar(value: Any) -> str:
    """A value on one line, quoted where YAML would read something else."""
    for style in (None, '"'):
        text = yaml.safe_dump(value, allow_unicode=True, width=math.inf, default_style=style)
        text = text.removesuffix("\n").removesuffix("\n...")
        if len(text.splitlines()) == 1:
            break
    return text
