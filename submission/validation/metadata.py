"""Checks of the metadata file: its schema, and whether its values agree with each other and with
the package.

Overall log loss is a mean over clips, so it lies between the least and the greatest of the classes,
and of the devices; overall accuracy is the mean of the classes' accuracies
(``evaluation.metrics``). Results that contradict this are only a warning: the figures are the
authors' own.
"""
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from submission import schema
from submission.rules import DEMO_SUFFIX, RESULTS, Rules
from submission.validation import fields
from submission.validation.findings import Finding, format_key
from task1a.errors import shown
from task1a.files import YAMLError, parse_yaml

MAX_BYTES = 64 * 1024

# reserved for examples by RFC 2606
_EXAMPLE_DOMAINS = ("example.org", "example.com", "example.net")
_EXAMPLE_HOSTS = (".example.org", ".example.com", ".example.net")
# a number of values, the field with their size, and the bytes in one unit of that field
_SIZES = (("total_parameters_non_zero", "model_size", 1024), ("total_parameters", "total_model_size", 1))
# tolerances for figures that were rounded to one decimal (percent) or two (log loss)
_ACCURACY_ROUNDING = 0.1
_LOG_LOSS_ROUNDING = 0.01
# scikit-learn replaces probabilities below the epsilon of a double by it
_GREATEST_LOG_LOSS = 52 * math.log(2)


def read(data: bytes, file: str) -> tuple[Mapping[str, Any] | None, list[Finding]]:
    """Parse a metadata file of any origin.

    Returns:
        Its content, or None and the reason.
    """
    try:
        meta = parse_yaml(data)
    except YAMLError as error:
        where = f"line {error.line}" if error.line else ""
        return None, [Finding("error", file, where, error.problem.removeprefix("found "),
                              "plain YAML in UTF-8, indented with spaces")]
    if not isinstance(meta, Mapping):
        return None, [Finding("error", file, "", shown(meta), "the blocks submission, system and results")]
    return meta, []


def check(meta: Mapping[str, Any], file: str, label: str, labels: Sequence[str], rules: Rules) -> list[Finding]:
    """Check the content of a metadata file.

    Args:
        meta: content of the file.
        file: its name in findings.
        label: name of its folder.
        labels: labels of the system output next to it; empty if they are not known.
        rules: the edition.
    """
    meta, texts = fields.normalize(rules.metadata, meta)
    findings = fields.check(rules.metadata, meta, file, unknown="warning")
    wrong = {finding.where for finding in findings if finding.found != fields.UNKNOWN}

    def is_wrong(path: str) -> bool:
        # also if a block above or a field below is wrong
        return any(f"{where}.".startswith(f"{path}.") or f"{path}.".startswith(f"{where}.")
                   for where in wrong)

    if texts:
        (where, text), *others = texts
        more = f", and {len(others)} others" if others else ""
        findings.append(Finding("warning", file, where, f"the text {shown(text)}{more}", "a number without quotes; "
                                "YAML reads 1.0e-3 as one, 1e-3 as text"))
    valid = {}
    for path, _ in schema.leaves(rules.metadata):
        if path not in wrong:
            valid[path] = at(meta, path)

    name = valid.get("submission.name")
    if valid.get("submission.label") not in (None, label):
        findings.append(Finding("error", file, "submission.label", shown(valid["submission.label"]),
                                f"the name of its folder, {label}"))
    if name is not None and name.endswith(DEMO_SUFFIX):
        findings.append(Finding("not_submittable", file, "submission.name",
                                f"{shown(name)}, a system trained on demo data",
                                "a system trained on the challenge's data"))
    code = valid.get("system.inference_code")
    if code is not None and f".{urlsplit(code).hostname}".endswith(_EXAMPLE_HOSTS):
        findings.append(Finding("not_submittable", file, "system.inference_code",
                                f"{shown(code)}, an address of the example",
                                "the address of your inference package (--authors FILE)"))
    authors = valid.get("submission.authors")
    findings += check_authors(authors, file, "submission.authors")
    if authors and not any(at(author, "corresponding") is True for author in authors):
        findings.append(Finding("error", file, "submission.authors", "no corresponding author", "exactly one"))

    findings += check_sizes(valid, file, rules)
    stated = [path for path in rules.result_blocks if at(meta, path) is not None]
    if rules.device_models and not stated and not any(path.startswith("results") for path in wrong):
        findings.append(Finding("error", file, RESULTS, "no results",
                                f"those of {' or '.join(rules.result_blocks)}"))
    for path in rules.result_blocks:
        problems = list(check_names(at(meta, path), path, file, labels, rules))
        findings += problems
        if not problems and not is_wrong(path):
            findings += check_scores(at(meta, path), path, file, rules)
    return findings


def check_authors(authors: Any, file: str, where: str) -> Iterator[Finding]:
    """Check that the authors are not those of the example, and that at most one is the
    corresponding author."""
    authors = [author for author in authors if isinstance(author, Mapping)] if isinstance(authors, list) else []
    for author in authors:
        email = author.get("email")
        if isinstance(email, str) and email.lower().rpartition("@")[2] in _EXAMPLE_DOMAINS:
            yield Finding("not_submittable", file, where, f"{shown(email)}, an author of the example",
                          "authors of your own (--authors FILE)")
            break
    corresponding = sum(author.get("corresponding") is True for author in authors)
    if corresponding > 1:
        yield Finding("error", file, where, f"{corresponding} corresponding authors", "exactly one")


def check_sizes(valid: Mapping[str, Any], file: str, rules: Rules) -> Iterator[Finding]:
    """Check whether sizes can be true together, and are within the limits."""
    block = "system.complexity"
    total = valid.get(f"{block}.total_parameters")
    non_zero = valid.get(f"{block}.total_parameters_non_zero")
    if total is not None and non_zero is not None and non_zero > total:
        yield Finding("error", file, f"{block}.total_parameters_non_zero", f"{non_zero:,}",
                      f"no more than total_parameters, {total:,}")
    for values, size, unit in _SIZES:
        count, amount = valid.get(f"{block}.{values}"), valid.get(f"{block}.{size}")
        if count is not None and amount is not None and count > 8 * unit * float(amount):
            yield Finding("error", file, f"{block}.{size}", f"{unit * float(amount):,.15g} bytes",
                          f"at least 1 bit per value, for {count:,} values ({values})")
    for limit in rules.limits:
        if valid.get(limit.path) is None:
            continue
        amount = float(valid[limit.path]) * limit.unit_per_field
        found = f"{amount:,.15g} {limit.unit}"
        if amount > limit.max:
            yield Finding("error", file, limit.path, found, f"at most {limit.max:,} {limit.unit}")
        elif limit.warn_above is not None and amount > limit.warn_above:
            yield Finding("warning", file, limit.path, found, f"at most {limit.warn_above:,} "
                          f"{limit.unit}, to be within the limit however its unit is read")
        elif amount == 0:
            yield Finding("warning", file, limit.path, found, "more than none")


def check_names(results: Any, path: str, file: str, labels: Sequence[str],
                rules: Rules) -> Iterator[Finding]:
    """Check that there is a result for every label and device, and no other."""
    classes, devices = at(results, "class_wise"), at(results, "device_wise")
    if isinstance(classes, Mapping) and classes and labels:
        for name in classes:
            if name not in labels:
                yield Finding("error", file, f"{path}.class_wise", shown(name),
                              "the labels of the output's columns only")
        missing = [label for label in labels if label not in classes]
        if missing:
            yield Finding("not_submittable", file, f"{path}.class_wise", f"no {', '.join(missing)}",
                          "a result for every label of the output's columns")
    if isinstance(devices, Mapping) and devices and set(devices) != set(rules.devices):
        yield Finding("not_submittable", file, f"{path}.device_wise",
                      f"the devices {' '.join(map(format_key, devices))}",
                      f"those of {rules.name}: {' '.join(rules.devices)}")


def check_scores(results: Mapping[str, Any] | None, path: str, file: str,
                 rules: Rules) -> Iterator[Finding]:
    """Check whether scores of the right type can be true together, and name those that are null.

    The organisers' templates allow null for what was not computed, and their validators take null
    for a whole block; the validator of 2021, where log loss decides, prints each null score without
    counting it as an error.
    """
    if results is None and rules.device_models:
        return
    losses: dict[str, dict[str, float | None]] = {}
    accuracies: dict[str, dict[str, float | None]] = {}
    absent, unknown = [], []
    for part in ("overall", "class_wise", "device_wise"):
        block = results[part] if results else None
        if not block:
            absent.append(part)
            continue
        losses[part], accuracies[part] = {}, {}
        for name, score in ({"": block} if part == "overall" else block).items():
            where = f"{part}.{format_key(name)}".removesuffix(".")
            losses[part][where], accuracies[part][where] = score["logloss"], score["accuracy"]
            if score["logloss"] is None and rules.year == 2021:
                unknown.append(f"{where}.logloss")
            if score["accuracy"] is None:
                unknown.append(f"{where}.accuracy")
            if score["logloss"] is not None and not 0 < score["logloss"] <= _GREATEST_LOG_LOSS:
                yield Finding("warning", file, f"{path}.{where}.logloss", f"{score['logloss']:.6g}",
                              f"more than 0, and not above {_GREATEST_LOG_LOSS:.2f}, where every clip is wrong")
    absent += unknown
    if absent:
        more = f", and {len(absent) - 1} others" if len(absent) > 1 else ""
        yield Finding("warning", file, path, f"null for {absent[0]}{more}",
                      "all scores that were computed; the others may be null")

    for overall in _stated(losses.get("overall")):
        groups = [group for group in (_stated(losses.get("class_wise")), _stated(losses.get("device_wise")))
                  if group]
        least = max(map(min, groups), default=overall)
        greatest = min(map(max, groups), default=overall)
        complete = all(None not in part.values() for part in losses.values())
        if complete and not least - _LOG_LOSS_ROUNDING <= overall <= greatest + _LOG_LOSS_ROUNDING:
            yield Finding("warning", file, f"{path}.overall.logloss", f"{overall:.6g}",
                          f"{least:.6g} to {greatest:.6g}, between the least and the greatest of classes and "
                          "devices")
    for overall in _stated(accuracies.get("overall")):
        classes = _stated(accuracies.get("class_wise"))
        where, given = f"{path}.overall.accuracy", f"{overall:.6g}"
        if 0 < max(max(_stated(part), default=0) for part in accuracies.values()) <= 1:
            yield Finding("warning", file, where, given, "percent, not a share of 1")
        elif classes and all(None not in part.values() for part in accuracies.values()):
            mean = sum(classes) / len(classes)
            if abs(overall - mean) > _ACCURACY_ROUNDING + 1e-9:
                yield Finding("warning", file, where, given,
                              f"{mean:.6g}, the mean of the classes' accuracies")


def _stated(scores: Mapping[str, float | None] | None) -> list[float]:
    return [score for score in (scores or {}).values() if score is not None]


def at(node: Any, path: str) -> Any:
    """Return the value at the path of a field; None if there is none."""
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
