"""Checks of the metadata file: fields and their types, then what they say."""
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from submission.findings import Finding, shown
from submission.rules import Field, Rules

MAX_BYTES = 256 * 1024

_MISSING = object()
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
# reserved for examples by RFC 2606
_EXAMPLE_DOMAINS = ("@example.org", "@example.com", "@example.net")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= sys.float_info.max


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "block": (lambda value: isinstance(value, Mapping) and len(value) > 0, "a block of fields"),
    "list": (lambda value: isinstance(value, list) and len(value) > 0, "a list with at least one item"),
    "optional list": (lambda value: value is None or isinstance(value, list), "a list, or null"),
    "text": (_is_text, "text"),
    "optional text": (lambda value: value is None or _is_text(value), "text, or null"),
    "count": (_is_count, "a whole number"),
    "optional count": (lambda value: value is None or _is_count(value), "a whole number, or null"),
    "number": (_is_number, "a number, not below 0"),
    "percent": (lambda value: _is_number(value) and value <= 100, "a number from 0 to 100"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
}


def check(data: bytes, file: str, label: str, labels: Sequence[str], rules: Rules) -> list[Finding]:
    """Check a metadata file as a stranger hands it in.

    Args:
        data: the file's content.
        file: its name in findings.
        label: of the folder it lies in.
        labels: of the columns of the system output beside it; empty where they are not known.
        rules: the edition.
    """
    if len(data) > MAX_BYTES:
        return [Finding("error", file, "", f"{len(data):,} bytes", f"at most {MAX_BYTES:,}")]
    try:
        meta = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [Finding("error", file, "", " ".join(str(error).split()), "a YAML file in UTF-8")]
    if not isinstance(meta, Mapping):
        return [Finding("error", file, "", shown(meta), "the blocks submission, system and results")]
    return [*check_fields(meta, file, rules.fields), *_check_submission(meta, file, label, rules),
            *_check_complexity(meta, file, rules), *_check_results(meta, file, labels, rules)]


def check_fields(meta: Mapping[str, Any], file: str, fields: Sequence[Field]) -> Iterator[Finding]:
    """Name every field that is missing or of another kind than the rules say."""
    for field in fields:
        right, expected = _KINDS[field.kind]
        for where, value in _find(meta, field.path.split(".")):
            if value is _MISSING:
                if field.required:
                    yield Finding("error", file, where, "no such field", expected)
            elif not right(value):
                yield Finding("error", file, where, "null" if value is None else shown(value), expected)


def check_authors(authors: Any, file: str, where: str) -> Iterator[Finding]:
    """Check what the authors' fields say: addresses that can be written to, at most one corresponding author."""
    authors = [author for author in authors if isinstance(author, Mapping)] if isinstance(authors, list) else []
    emails = [(index, author["email"]) for index, author in enumerate(authors) if _is_text(author.get("email"))]
    for index, email in emails:
        if not _EMAIL.fullmatch(email):
            yield Finding("error", file, f"{where}[{index}].email", shown(email), "an e-mail address")
    examples = [email for _, email in emails if email.lower().endswith(_EXAMPLE_DOMAINS)]
    if examples:
        yield Finding("not_submittable", file, where, f"{shown(examples[0])}, an author of the example",
                      "authors of your own (--authors FILE)")
    corresponding = sum(author.get("corresponding") is True for author in authors)
    if corresponding > 1:
        yield Finding("error", file, where, f"{corresponding} corresponding authors", "exactly one")


def _find(node: Any, keys: Sequence[str], above: str = "") -> Iterator[tuple[str, Any]]:
    """Every place that the keys lead to, and its value; none where a block on the way is missing or is no block."""
    key, *rest = keys
    if isinstance(node, list):
        places = [(f"{above}[{index}]", value) for index, value in enumerate(node)] if key == "*" else []
    elif isinstance(node, Mapping):
        prefix = f"{above}." if above else ""
        entries = node.items() if key == "*" else [(key, node.get(key, _MISSING))]
        places = [(f"{prefix}{name}", value) for name, value in entries]
    else:
        places = []
    for where, value in places:
        if not rest:
            yield where, value
        elif value is not _MISSING:
            yield from _find(value, rest, where)


def _at(meta: Any, path: str) -> Any:
    for key in path.split("."):
        meta = meta.get(key) if isinstance(meta, Mapping) else None
    return meta


def _check_submission(meta: Mapping[str, Any], file: str, label: str, rules: Rules) -> Iterator[Finding]:
    stated, abbreviation, name = (_at(meta, f"submission.{key}") for key in ("label", "abbreviation", "name"))
    if _is_text(stated) and stated != label:
        yield Finding("error", file, "submission.label", shown(stated), f"the name of its folder, {label}")
    if _is_text(abbreviation) and len(abbreviation) > rules.abbreviation_length:
        yield Finding("error", file, "submission.abbreviation", shown(abbreviation),
                      f"at most {rules.abbreviation_length} characters, not {len(abbreviation):,}")
    if _is_text(name) and name.endswith(rules.demo_suffix):
        yield Finding("not_submittable", file, "submission.name", f"{shown(name)}, a system trained on demo data",
                      "a system trained on the challenge's data")
    authors = _at(meta, "submission.authors")
    yield from check_authors(authors, file, "submission.authors")
    if isinstance(authors, list) and not any(_at(author, "corresponding") is True for author in authors):
        yield Finding("error", file, "submission.authors", "no corresponding author", "exactly one")


def _check_complexity(meta: Mapping[str, Any], file: str, rules: Rules) -> Iterator[Finding]:
    total, non_zero, kilobytes = (_at(meta, f"system.complexity.{key}")
                                  for key in ("total_parameters", "total_parameters_non_zero", "model_size"))
    if _is_count(total) and _is_count(non_zero) and non_zero > total:
        yield Finding("error", file, "system.complexity.total_parameters_non_zero", f"{non_zero:,}",
                      f"no more than total_parameters, {total:,}")
    if not _is_number(kilobytes):
        return
    size, limit = float(kilobytes) * 1024, rules.limits[0]
    if _is_count(non_zero) and non_zero > 8 * size:
        yield Finding("error", file, "system.complexity.model_size", f"{size:,.0f} bytes",
                      f"at least a bit for each of {non_zero:,} non-zero values")
    if size > limit.greatest:
        yield Finding("error", file, "system.complexity.model_size", f"{size:,.0f} bytes",
                      f"at most {limit.greatest:,} bytes")
    elif size > limit.doubtful_above:
        yield Finding("warning", file, "system.complexity.model_size", f"{size:,.0f} bytes",
                      f"at most {limit.doubtful_above:,} bytes, to be within 128 KB however a KB is read")


def _check_results(meta: Mapping[str, Any], file: str, labels: Sequence[str], rules: Rules) -> Iterator[Finding]:
    path = "results.development_dataset"
    classes, devices = _at(meta, f"{path}.class_wise"), _at(meta, f"{path}.device_wise")
    if isinstance(classes, Mapping) and classes and labels:
        unknown = [name for name in classes if name not in labels]
        if unknown:
            yield Finding("error", file, f"{path}.class_wise", shown(unknown[0]),
                          "the labels of the output's columns only")
        missing = [label for label in labels if label not in classes]
        if missing:
            yield Finding("not_submittable", file, f"{path}.class_wise", f"no {', '.join(missing)}",
                          "a result for every label of the output's columns")
    if isinstance(devices, Mapping) and devices and set(devices) != set(rules.devices):
        yield Finding("not_submittable", file, f"{path}.device_wise", f"the devices {' '.join(map(str, devices))}",
                      f"those of {rules.name}: {' '.join(rules.devices)}")
