"""Checks of the metadata file: fields and their types, then what they say; of the results, see ``check_results``."""
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from submission import check_results
from submission.findings import Finding, named
from submission.rules import Field, Rules
from task1a.errors import shown
from task1a.files import YAMLError, parse_yaml

MAX_BYTES = 64 * 1024

_MISSING = object()
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# reserved for examples by RFC 2606
_EXAMPLE_DOMAINS = ("@example.org", "@example.com", "@example.net")
# a number of values, what they take together, and how many bytes that is counted by
_SIZES = (("total_parameters_non_zero", "model_size", 1024), ("total_parameters", "total_model_size", 1))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != "" and not _CONTROL.search(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= sys.maxsize


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
    "optional number": (lambda value: value is None or _is_number(value), "a number, not below 0, or null"),
    "percent": (lambda value: _is_number(value) and value <= 100, "a number from 0 to 100"),
    "flag": (lambda value: isinstance(value, bool), "true or false"),
}


def read(data: bytes, file: str) -> tuple[Mapping[str, Any] | None, list[Finding]]:
    """Parse a metadata file as a stranger hands it in.

    Returns:
        Its blocks, or None and why there are none.
    """
    try:
        meta = parse_yaml(data)
    except YAMLError as error:
        where = f"line {error.line}" if error.line else ""
        return None, [Finding("error", file, where, error.problem, "plain YAML in UTF-8")]
    if not isinstance(meta, Mapping):
        return None, [Finding("error", file, "", shown(meta), "the blocks submission, system and results")]
    return meta, []


def check(meta: Mapping[str, Any], file: str, label: str, labels: Sequence[str], rules: Rules) -> list[Finding]:
    """Check the content of a metadata file.

    Args:
        meta: its blocks.
        file: its name in findings.
        label: of the folder it lies in.
        labels: of the columns of the system output beside it; empty where they are not known.
        rules: the edition.
    """
    return [*check_fields(meta, file, rules.fields), *_unknown_fields(meta, file, rules),
            *_check_submission(meta, file, label, rules), *_check_complexity(meta, file, rules),
            *check_results.check(meta, file, labels, rules)]


def check_fields(meta: Mapping[str, Any], file: str, fields: Sequence[Field]) -> Iterator[Finding]:
    """Name every field that is missing or of another kind than the rules say."""
    wrong: list[str] = []
    for field in fields:
        right, expected = _KINDS[field.kind]
        for where, value in _find(meta, field.path.split(".")):
            if where.startswith(tuple(wrong)):
                continue
            if value is _MISSING:
                if field.required:
                    yield Finding("error", file, where, "no such field", expected)
            elif not right(value):
                if "*" not in field.path:  # what lies in a list that should be a block, or the other way round
                    wrong += [f"{where}.", f"{where}["]
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
        entries = node.items() if key == "*" else [(key, node.get(key, _MISSING))]
        places = [(_below(above, name), value) for name, value in entries]
    else:
        places = []
    for where, value in places:
        if not rest:
            yield where, value
        elif value is not _MISSING:
            yield from _find(value, rest, where)


def _below(above: str, key: Any) -> str:
    return f"{above}.{named(key)}" if above else named(key)


def _unknown_fields(meta: Mapping[str, Any], file: str, rules: Rules) -> Iterator[Finding]:
    """Yield fields that the edition does not have: misspelt ones, or another edition's."""
    for block in rules.fields:
        if block.kind == "block" and not any(field.path == f"{block.path}.*" for field in rules.fields):
            keys = [field.path.rpartition(".")[2] for field in rules.fields if _is_in(field, block)]
            for where, value in _find(meta, block.path.split(".")):
                unknown = [key for key in value if key not in keys] if isinstance(value, Mapping) else []
                for key in unknown:
                    yield Finding("warning", file, _below(where, key), f"a field that {rules.name} does not have",
                                  f"only {', '.join(keys)} there")
    for key in meta:
        if key not in ("submission", "system", "results"):
            yield Finding("warning", file, _below("", key), f"a block that {rules.name} does not have",
                          "only submission, system and results")


def _is_in(field: Field, block: Field) -> bool:
    return field.path.rpartition(".")[0] == block.path


def _check_submission(meta: Mapping[str, Any], file: str, label: str, rules: Rules) -> Iterator[Finding]:
    stated, abbreviation, name = (at(meta, f"submission.{key}") for key in ("label", "abbreviation", "name"))
    if _is_text(stated) and stated != label:
        yield Finding("error", file, "submission.label", shown(stated), f"the name of its folder, {label}")
    if _is_text(abbreviation) and len(abbreviation) > rules.abbreviation_length:
        yield Finding("error", file, "submission.abbreviation", shown(abbreviation),
                      f"at most {rules.abbreviation_length} characters, not {len(abbreviation):,}")
    if _is_text(name) and name.endswith(rules.demo_suffix):
        yield Finding("not_submittable", file, "submission.name", f"{shown(name)}, a system trained on demo data",
                      "a system trained on the challenge's data")
    authors = at(meta, "submission.authors")
    yield from check_authors(authors, file, "submission.authors")
    if isinstance(authors, list) and authors and not any(at(author, "corresponding") is True for author in authors):
        yield Finding("error", file, "submission.authors", "no corresponding author", "exactly one")


def _check_complexity(meta: Mapping[str, Any], file: str, rules: Rules) -> Iterator[Finding]:
    block = "system.complexity"
    total, non_zero = (at(meta, f"{block}.{key}") for key in ("total_parameters", "total_parameters_non_zero"))
    if _is_count(total) and _is_count(non_zero) and non_zero > total:
        yield Finding("error", file, f"{block}.total_parameters_non_zero", f"{non_zero:,}",
                      f"no more than total_parameters, {total:,}")
    for values, size, unit in _SIZES:
        count, amount = (at(meta, f"{block}.{key}") for key in (values, size))
        if _is_count(count) and _is_number(amount) and count > 8 * unit * float(amount):
            yield Finding("error", file, f"{block}.{size}", f"{unit * float(amount):,.15g} bytes",
                          f"at least a bit for each of {count:,} values ({values})")
    for limit in rules.limits:
        value = at(meta, limit.path)
        if not _is_number(value):
            continue
        amount = float(value) * limit.unit_per_field
        found = f"{amount:,.15g} {limit.unit}"
        if amount > limit.max:
            yield Finding("error", file, limit.path, found, f"at most {limit.max:,} {limit.unit}")
        elif limit.warn_above is not None and amount > limit.warn_above:
            yield Finding("warning", file, limit.path, found, f"at most {limit.warn_above:,} {limit.unit}, to be "
                          "within the limit however its unit is read")
        elif amount == 0:
            yield Finding("warning", file, limit.path, found, "more than none")


def at(meta: Any, path: str) -> Any:
    """The value at the path of a field; None where there is none."""
    for key in path.split("."):
        meta = meta.get(key) if isinstance(meta, Mapping) else None
    return meta
