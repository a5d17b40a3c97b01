"""The metadata file of a system, filled from its runs and from what the authors say.

The rules of the edition name the fields; what a run knows is taken from the records it left. Sizes are those under the
policy that the limit is counted by (``dcase2021``: everything a layer stores), and a KB is 1,024 bytes, as the official
model-size tool has it; the quotient is not rounded, so that the bytes can be read back from it.
"""
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from submission import blocks
from submission.findings import Finding
from submission.rules import META_SUFFIX, Rules
from task1a.errors import InputError
from task1a.run import Run

METHODS = {"bcresnet_asc": "BC-ResNet-ASC", "bcresnet": "BC-ResNet", "cp_resnet": "CP-ResNet"}
"""names of the architectures"""
_FEATURES = {"pcen": "mel energies, PCEN"}  # the other front ends take the logarithm
_COMPLEXITY = "system.complexity"


@dataclass(frozen=True)
class Records:
    """What a run left behind of itself, as plain data."""

    config: Mapping[str, Any]
    data: Mapping[str, Any]
    complexity: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    environment: Mapping[str, Any] | None = None
    """None where nothing was trained in the run itself"""
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """configurations of an ensemble's runs, of those that lie beside it"""


def read_records(run: Path) -> Records:
    """Read the records of a run folder.

    Raises:
        InputError: one is missing or unreadable; the message names the stage that makes it.
    """
    opened = Run(run)
    members = {}
    for name, member in zip(opened.config.ensemble, opened.members, strict=True):
        if member.config_file.is_file():
            members[name] = asdict(member.config)
    return Records(asdict(opened.config), opened.read("data"), opened.read("complexity"), opened.read("evaluation"),
                   opened.read("environment") if opened.environment.is_file() else None, members)


def build(label: str, said: Mapping[str, Any], records: Sequence[Records], rules: Rules) -> dict[str, Any]:
    """The metadata of one system, in the order in which it is written.

    Args:
        label: of the system.
        said: what the authors say, by path; where they say nothing, the run's own value stands.
        records: of the system's run; of one for each split where the edition has splits.
        rules: the edition.

    Raises:
        KeyError: a record lacks an entry.
    """
    last = records[-1]
    sizes = [complexity(record, rules) for record in records]
    values = {"submission.label": label, **_submission(last, rules), **_description(last.config),
              **{path: _largest([size[path] for size in sizes]) for path in sizes[0]}}
    for block, record in zip(rules.result_blocks, records, strict=True):
        values |= {f"{block}.overall": _scores(record.evaluation["overall"]),
                   f"{block}.class_wise": _present(record.evaluation["class_wise"]),
                   f"{block}.device_wise": _present(record.evaluation["device_wise"])}
    values |= {path: value for path, value in said.items() if value is not None or path not in values}
    return blocks.nested({field.path: values[field.path] for field in rules.fields if field.path in values})


def complexity(records: Records, rules: Rules) -> dict[str, Any]:
    """The size of a run by the paths of the fields that the edition states it in; None is not known."""
    size = records.complexity["policies"][records.complexity["limit_policy"]]
    stored_bits = sum(int(bits) * part["parameters"] for bits, part in size["by_bits"].items())
    values = {f"{_COMPLEXITY}.total_parameters": size["parameters"],
              f"{_COMPLEXITY}.total_parameters_non_zero": size["non_zero"],
              f"{_COMPLEXITY}.model_size": size["bytes"] / 1024,
              f"{_COMPLEXITY}.total_model_size": -(-stored_bits // 8),
              f"{_COMPLEXITY}.macs": records.complexity["multiply_accumulates"]}
    wanted = {field.path for field in rules.fields}
    return {path: value for path, value in values.items() if path in wanted}


def differing_sizes(label: str, records: Sequence[Records], rules: Rules) -> list[Finding]:
    """Name every size that is not the same for all splits of a system."""
    sizes = [complexity(record, rules) for record in records]
    values = {path: [size[path] for size in sizes] for path in sizes[0]}
    return [Finding("warning", f"{label}{META_SUFFIX}", path, " / ".join(f"{value:,}" for value in found),
                    "the same for all splits; the largest is stated")
            for path, found in values.items() if len(set(found)) > 1 and None not in found]


def check_clips(run: Path, config: Mapping[str, Any], rules: Rules) -> None:
    """Refuse a run whose operations were counted for a clip of another length than the edition states them for.

    Raises:
        InputError: so it is.
    """
    seconds = config["features"]["clip_seconds"]
    if seconds != rules.clip_seconds and any(field.path == f"{_COMPLEXITY}.macs" for field in rules.fields):
        raise InputError(f"{run}: its features.clip_seconds is {seconds:g}, and {rules.name} counts the operations for "
                         f"a clip of {rules.clip_seconds:g} s; train with features.clip_seconds={rules.clip_seconds:g}")


def to_text(meta: Mapping[str, Any], rules: Rules) -> str:
    """The metadata as YAML; a comment stands above every field where it occurs for the first time."""
    return blocks.to_text(meta, {field.path: field.comment for field in rules.fields})


def _submission(records: Records, rules: Rules) -> dict[str, Any]:
    own = records.config["submission"]
    return {"submission.name": own["name"] + (rules.demo_suffix if records.data["demo"] else ""),
            "submission.abbreviation": own["abbreviation"], "system.source_code": own["source_code"]}


def _description(config: Mapping[str, Any]) -> dict[str, Any]:
    training, compression, members = config["training"], config["compression"], config["ensemble"]
    compressed = compression["enabled"]
    pruning = compressed and (compression["ratio"] or compression["target_bytes"])
    distillation = compressed and compression["teachers"]
    masks = (training["frequency_masks"] and training["frequency_mask_bins"],
             training["time_masks"] and training["time_mask_frames"])
    name = config["model"]["name"]
    fields = {
        "input_sampling_rate": f"{config['features']['sample_rate'] / 1000:g}kHz",
        "acoustic_features": _FEATURES.get(config["model"].get("front_end"), "log-mel energies"),
        "embeddings": None,
        "data_augmentation": _used({"mixup": training["mixup_alpha"], "SpecAugment": any(masks),
                                    "time rolling": training["roll_seconds"]}),
        "machine_learning_method": METHODS.get(name, name),
        "ensemble_method_subsystem_count": len(members) or None,
        "decision_making": "average" if members else "maximum likelihood",
        "complexity_management": _used({"pruning": pruning, "weight quantization": compressed,
                                        "knowledge distillation": distillation}),
        "pipeline": _used({"training": True, "pruning": pruning, "quantization-aware training": compressed,
                           "knowledge distillation": distillation, "calibration": training["calibrate"]}),
        "framework": "pytorch",
    }
    return {f"system.description.{key}": value for key, value in fields.items()}


def _used(steps: Mapping[str, Any]) -> str | None:
    """The names of what there is any of."""
    return ", ".join(name for name, amount in steps.items() if amount) or None


def _largest(values: Sequence[Any]) -> Any:
    return None if None in values else max(values)


def _scores(scores: Mapping[str, float]) -> dict[str, float]:
    return {"logloss": scores["logloss"], "accuracy": scores["accuracy"]}


def _present(groups: Mapping[str, Mapping[str, float] | None]) -> dict[str, dict[str, float]]:
    """The scores of the classes or devices that the test split has clips of."""
    return {name: _scores(scores) for name, scores in groups.items() if scores}
