"""Checks of the results in the metadata file: complete, and such that they can be true together.

Overall log loss is a mean over clips, so it lies between the least and the greatest of the classes, and of the
devices; overall accuracy is the mean of the classes' accuracies (``evaluation.metrics``). What contradicts this is a
warning: the figures are the authors' own.
"""
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from submission.findings import Finding, named, shown
from submission.rules import Rules

# what figures may be off by that were rounded to one decimal (percent) or to two (log loss)
_ACCURACY_ROUNDING = 0.1
_LOG_LOSS_ROUNDING = 0.01
# no probability is taken to be less than the epsilon of a double (scikit-learn)
_GREATEST_LOG_LOSS = 52 * math.log(2)


def check(meta: Mapping[str, Any], file: str, labels: Sequence[str], rules: Rules) -> Iterator[Finding]:
    """Check the results of every split; fields of a wrong kind are passed over.

    Args:
        meta: blocks of the metadata file.
        file: its name in findings.
        labels: of the columns of the system output; empty where they are not known.
        rules: the edition.
    """
    for path in rules.result_blocks:
        results: Any = meta
        for key in path.split("."):
            results = _block(results, key)
        incomplete = [*_check_classes(_block(results, "class_wise"), f"{path}.class_wise", file, labels),
                      *_check_devices(_block(results, "device_wise"), f"{path}.device_wise", file, rules)]
        yield from incomplete
        if not incomplete:
            yield from _check_log_loss(results, path, file)
            yield from _check_accuracy(results, path, file)


def _get(node: Any, key: str) -> Any:
    return node.get(key) if isinstance(node, Mapping) else None


def _block(node: Any, key: str) -> Mapping[Any, Any]:
    block = _get(node, key)
    return block if isinstance(block, Mapping) else {}


def _check_classes(classes: Mapping[Any, Any], where: str, file: str, labels: Sequence[str]) -> Iterator[Finding]:
    if not classes or not labels:
        return
    for name in classes:
        if name not in labels:
            yield Finding("error", file, where, shown(name), "the labels of the output's columns only")
    missing = [label for label in labels if label not in classes]
    if missing:
        yield Finding("not_submittable", file, where, f"no {', '.join(missing)}",
                      "a result for every label of the output's columns")


def _check_devices(devices: Mapping[Any, Any], where: str, file: str, rules: Rules) -> Iterator[Finding]:
    if devices and set(devices) != set(rules.devices):
        yield Finding("not_submittable", file, where, f"the devices {' '.join(map(named, devices))}",
                      f"those of {rules.name}: {' '.join(rules.devices)}")


def _check_log_loss(results: Mapping[str, Any], path: str, file: str) -> Iterator[Finding]:
    overall, classes, devices = _scores(results, "logloss")
    for where, log_loss in {**overall, **classes, **devices}.items():
        if not 0 < log_loss <= _GREATEST_LOG_LOSS:
            yield Finding("warning", file, f"{path}.{where}.logloss", f"{log_loss:.6g}",
                          f"more than 0, and not above {_GREATEST_LOG_LOSS:.2f}, where every clip is wrong")
    if not (overall and classes and devices):
        return
    log_loss = overall["overall"]
    least = max(min(classes.values()), min(devices.values()))
    greatest = min(max(classes.values()), max(devices.values()))
    if not least - _LOG_LOSS_ROUNDING <= log_loss <= greatest + _LOG_LOSS_ROUNDING:
        yield Finding("warning", file, f"{path}.overall.logloss", f"{log_loss:.6g}",
                      f"{least:.6g} to {greatest:.6g}, between the least and the greatest of classes and devices")


def _check_accuracy(results: Mapping[str, Any], path: str, file: str) -> Iterator[Finding]:
    overall, classes, devices = _scores(results, "accuracy")
    if not (overall and classes):
        return
    accuracy, mean = overall["overall"], sum(classes.values()) / len(classes)
    if 0 < max([*overall.values(), *classes.values(), *devices.values()]) <= 1:
        yield Finding("warning", file, f"{path}.overall.accuracy", f"{accuracy:.6g}", "percent, not a share of 1")
    elif abs(accuracy - mean) > _ACCURACY_ROUNDING + 1e-9:
        yield Finding("warning", file, f"{path}.overall.accuracy", f"{accuracy:.6g}",
                      f"{mean:.6g}, the mean of the classes' accuracies")


def _scores(results: Mapping[str, Any], score: str) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Overall, of the classes and of the devices: numbers by their places; none where one of them is no number."""
    groups = ({"overall": results.get("overall")},
              {f"class_wise.{named(name)}": scores for name, scores in _block(results, "class_wise").items()},
              {f"device_wise.{named(name)}": scores for name, scores in _block(results, "device_wise").items()})
    return tuple(_numbers({where: _get(scores, score) for where, scores in group.items()}) for group in groups)


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    numbers = {where: value for where, value in values.items() if isinstance(value, int | float)
               and not isinstance(value, bool) and 0 <= value <= sys.float_info.max}
    return numbers if len(numbers) == len(values) else {}
