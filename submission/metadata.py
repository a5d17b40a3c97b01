"""The metadata file of a system, filled from its runs and from the authors' file.

Sizes are those under the policy of the limit (``dcase2021``: everything a layer stores). A KB is
1,024 bytes, as in the official model-size tool, and is not rounded, so that the number of bytes can
be recovered from it.

The YAML is written here because ruamel.yaml, which keeps comments, quotes by the rules of YAML 1.2:
the name ``No`` and the number ``1e-05`` would be read as something else by the YAML 1.1 readers of
the organisers.
"""
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from evaluation import records
from submission.rules import DEMO_SUFFIX, META_SUFFIX, Rules
from submission.validation.findings import Finding
from task1a.config import NETWORKS
from task1a.pipeline.run import Run


@dataclass(frozen=True)
class Records:
    """Records of a run, as plain data (:mod:`evaluation.records`)."""

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


def read_records(folder: Path) -> Records:
    """Read the records of a run folder.

    Raises:
        InputError: a record is missing or damaged; the message names the stage that makes it.
    """
    run = Run(folder)
    members, environment, general = {}, None, None
    if run.config.ensemble:
        for name, model in zip(run.config.ensemble, run.models, strict=True):
            if model.config_file.is_file():
                members[name] = asdict(model.config)
    if run.environment.is_file():
        environment = records.read(run, "environment")
    if run.config.device_models:
        general = read_records(run.models[0].folder)
    return Records(
        run=run.folder, config=asdict(run.config), data=records.read(run, "data"),
        complexity=records.read(run, "complexity"), evaluation=records.read(run, "evaluation"),
        environment=environment, members=members, general=general)


def build(label: str, given: Mapping[str, Any], runs: Sequence[Records], rules: Rules) -> dict[str, Any]:
    """Return the metadata of one system, in the order of the file.

    Args:
        label: label of the system.
        given: values of the authors' file by path; None keeps the value of the run.
        runs: records of the system's run, or of one run for each split.
        rules: the edition.
    """
    last = runs[-1]
    own = last.config["submission"]
    values = {"submission.label": label,
              "submission.name": own["name"] + (DEMO_SUFFIX if last.data["demo"] else ""),
              "submission.abbreviation": own["abbreviation"],
              "system.source_code": own["source_code"]}
    for key, value in _describe(last.config).items():
        values[f"system.description.{key}"] = value
    for path, found in sizes(runs, rules).items():
        # one system is stated, so the largest of its splits counts
        values[path] = None if None in found else max(found)
    for block, record in results(runs, rules).items():
        if record is None:
            values[block] = None
            continue
        evaluation = record.evaluation
        values[f"{block}.overall"] = _scores(evaluation["overall"])
        for group in ("class_wise", "device_wise"):
            values[f"{block}.{group}"] = scores = {}
            for name, score in evaluation[group].items():
                # classes and devices without clips in the test split have no scores
                if score:
                    scores[name] = _scores(score)
    # what the authors state comes before what the run says
    for path, value in given.items():
        if value is not None or path not in values:
            values[path] = value
    return nest({path: values[path] for path in rules.comments if path in values})


def results(runs: Sequence[Records], rules: Rules) -> dict[str, Records | None]:
    """Return the records whose evaluation each block of results states; None where there are none.

    Args:
        runs: records of the system's run, or of one run for each split.
        rules: the edition.
    """
    stated: list[Records | None] = list(runs)
    if rules.device_models:
        [record] = runs
        stated = [record, record.general] if record.general else [None, record]
    return dict(zip(rules.result_blocks, stated, strict=True))


def stored_bytes(values: Iterable[tuple[int, int]]) -> int:
    """Return the bytes of stored values, zeros too, given the bits of a value and the number of
    values."""
    bits = sum(width * count for width, count in values)
    return -(-bits // 8)


def policy_bytes(size: Mapping[str, Any]) -> int:
    """Return the :func:`stored_bytes` of a system under one policy of its ``complexity.json``."""
    return stored_bytes((int(bits), part["parameters"]) for bits, part in size["by_bits"].items())


def sizes(runs: Sequence[Records], rules: Rules) -> dict[str, list[Any]]:
    """Return the size of each run, by the fields in which the edition states it; None is not
    known."""
    values: dict[str, list[Any]] = {}
    for record in runs:
        size = record.complexity["policies"][record.complexity["limit_policy"]]
        by_field = {"total_parameters": size["parameters"], "total_parameters_non_zero": size["non_zero"],
                    "model_size": size["bytes"] / 1024, "total_model_size": policy_bytes(size),
                    "macs": record.complexity["multiply_accumulates"]}
        for key, value in by_field.items():
            if f"system.complexity.{key}" in rules.comments:
                values.setdefault(f"system.complexity.{key}", []).append(value)
    return values


def differing_sizes(label: str, runs: Sequence[Records], rules: Rules) -> list[Finding]:
    """Warn about every size that differs between the splits of a system."""
    findings = []
    for path, found in sizes(runs, rules).items():
        if len(set(found)) > 1 and None not in found:
            findings.append(Finding("warning", f"{label}{META_SUFFIX}", path,
                                    " / ".join(f"{value:,}" for value in found),
                                    "the same for all splits; the largest is stated"))
    return findings


def wrong_shares(file: str, runs: Sequence[Records], rules: Rules) -> list[Finding]:
    """Check that the runs of a system's splits were trained on their shares of the training data.

    Args:
        file: name of the metadata file in findings.
        runs: records of the system's run, or of one run for each split.
        rules: the edition; without splits nothing is found.
    """
    shares = [int(split.rpartition("_")[2]) for split in rules.splits]
    counts = [record.data["clips"]["train"] for record in runs]
    largest = max(counts)
    for share, count in zip(shares, counts, strict=False):
        expected = largest * share / 100
        # The organisers' shares are not exact. The smallest steps, from 5 to 10 %, are far wider
        # than the tolerance.
        if abs(count - expected) > 0.1 * expected + 1:
            return [Finding("error", file, "",
                            f"runs with {' / '.join(f'{count:,}' for count in counts)} training clips",
                            f"{' / '.join(map(str, shares))} % of {largest:,} clips, a run for each share")]
    return []


def _describe(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key words of a system by which the organisers compare systems."""
    training, compression, members = config["training"], config["compression"], config["ensemble"]
    devices = config["device_models"]
    compressed = compression["enabled"]
    pruning = compressed and (compression["ratio"] or compression["target_bytes"])
    distillation = compressed and compression["teachers"]
    masks = (training["frequency_masks"] and training["frequency_mask_bins"]
             or training["time_masks"] and training["time_mask_frames"])
    network: Any = NETWORKS[config["model"]["name"]]
    return {
        "input_sampling_rate": f"{config['features']['sample_rate'] / 1000:g}kHz",
        "acoustic_features": ("mel energies, PCEN" if config["model"]["front_end"] == "pcen"
                              else "log-mel energies"),
        "embeddings": None,
        "data_augmentation": _used({"mixup": training["mixup_alpha"], "SpecAugment": masks,
                                    "time rolling": training["roll_seconds"]}),
        "machine_learning_method": network.title,
        "ensemble_method_subsystem_count": len(members) or None,
        "decision_making": "average" if members else "maximum likelihood",
        "complexity_management": _used({"pruning": pruning, "weight quantization": compressed,
                                        "knowledge distillation": distillation}),
        "pipeline": _used({"training": True, "device-specific fine-tuning": devices, "pruning": pruning,
                           "quantization-aware training": compressed,
                           "knowledge distillation": distillation, "calibration": training["calibrate"]}),
        "framework": "pytorch",
        "device_information": "per-device end-to-end fine-tuning" if devices else None,
        "num_models_at_inference": 1 + len(devices),
        "model_weight_sharing": "fully device-specific" if devices else "fully shared",
    }


def _used(steps: Mapping[str, Any]) -> str | None:
    """Return the names of the steps whose amount is not zero."""
    return ", ".join(name for name, amount in steps.items() if amount) or None


def _scores(score: Mapping[str, float]) -> dict[str, float]:
    return {"logloss": score["logloss"], "accuracy": score["accuracy"]}


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that are given by path (keys joined by dots) as a tree, in the same order."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *above, key = path.split(".")
        block = tree
        for name in above:
            block = block.setdefault(name, {})
        block[key] = value
    return tree


def to_text(tree: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """Format a tree as YAML, with a comment above every field where it occurs first.

    Args:
        tree: blocks, lists of blocks, and plain values.
        comments: comments by path; ``*`` stands for an item of a list or a free name.
    """
    return "\n".join(_lines(tree, (), comments, set())) + "\n"


def _lines(node: Mapping[str, Any], path: tuple[str, ...], comments: Mapping[str, str],
           commented: set[str]) -> Iterator[str]:
    """Yield the lines of a block at a path, and add the paths of its fields to ``commented``."""
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
    """Format a value on one line, quoted where YAML would read something else."""
    for style in (None, '"'):
        text = yaml.safe_dump(value, allow_unicode=True, width=math.inf, default_style=style)
        text = text.removesuffix("\n").removesuffix("\n...")
        if len(text.splitlines()) == 1:
            break
    return text
