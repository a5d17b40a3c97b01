"""Check a file against the schema of its fields, and read values that stand for the same as the
schema's.

pydantic finds what is wrong; here it becomes findings in the words and with the levels of the
challenge.
"""
import re
from collections.abc import Mapping
from types import NoneType
from typing import Any, get_args

from pydantic import ValidationError

from submission.schema import NEVER, Block, block_in, is_block
from submission.validation.findings import Finding, Level
from task1a.errors import shown

UNKNOWN = "an unknown field"

_NUMBER = re.compile(r"[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?")
# by the type of pydantic's error, in place of its own text, which is about Python
_EXPECTED = {"string_type": "text", "int_type": "a whole number", "float_type": "a number",
             "bool_type": "true or false", "list_type": "a list", "too_short": "at least one item",
             "dict_type": "a block of fields", "model_type": "a block of fields"}
# errors even in a field whose type the organisers do not check
_ALWAYS_ERRORS = ("greater_than_equal", "less_than_equal", "finite_number", "scheme")


def check(block: type[Block], tree: Any, file: str, unknown: Level) -> list[Finding]:
    """Name every field that is missing, of the wrong type or out of range, or unknown.

    Args:
        block: model of the file.
        tree: content of the file.
        file: its name in findings.
        unknown: level of an unknown field; unless it is an error, what the organisers do not check
            is a warning, too.
    """
    try:
        block.model_validate(tree)
        return []
    except ValidationError as error:
        problems = error.errors(include_url=False)
    findings = []
    for problem in problems:
        # follow the path of the problem to the innermost field of the schema
        where, inner, siblings, step = "", block, block.model_fields, None
        facts: Any = {}
        for step in problem["loc"]:
            siblings = inner.model_fields
            where += f"[{step}]" if isinstance(step, int) else f".{step}"
            if step in siblings:
                facts = siblings[step].json_schema_extra or {}
                inner = block_in(siblings[step].annotation) or inner
        where = where.removeprefix(".")
        kind, given = problem["type"], problem["input"]
        if kind in ("extra_forbidden", "invalid_key"):
            findings.append(Finding(unknown, file, where, UNKNOWN, f"only {', '.join(siblings)} there"))
        elif kind == "missing":
            by_schema = facts.get("required", facts.get("required_since", 0) < NEVER)
            level: Level = "error" if unknown == "error" or by_schema else "warning"
            findings.append(Finding(level, file, where, "no such field", "a field of this name"))
        else:
            # pydantic writes "Input should be greater than 0", and "Value error, " before the text
            # of a validator
            expected = re.sub("^(.* should (be|have)|Value error,) ", "", problem["msg"])
            is_field = step in siblings or isinstance(step, int)
            unchecked = is_field and facts.get("any_value") and kind not in _ALWAYS_ERRORS
            findings.append(Finding("warning" if unchecked and unknown != "error" else "error", file, where,
                                    "null" if given is None else shown(given), _EXPECTED.get(kind, expected)))
    return findings


def normalize(block: type[Block], tree: Any, above: str = "") -> tuple[Any, list[tuple[str, str]]]:
    """Write a tree as the schema has it, where the organisers' programs take a value for the same.

    Empty text, lists and blocks are null where null is allowed, and so are items of a list that say
    nothing. Numbers may be text (``1e-3`` is text in YAML 1.1), integers may be whole floats, a
    text may be a list of one text.

    Args:
        block: model of the tree.
        tree: content of the file.
        above: path of the tree, with a dot at its end.

    Returns:
        A copy of the tree, and the paths and values of all text that was taken for a number, true
        or false.
    """
    if not isinstance(tree, Mapping):
        return tree, []
    copied, texts = dict(tree), []
    for name, field in block.model_fields.items():
        if name not in tree:
            continue
        value, where, kind = tree[name], f"{above}{name}", field.annotation
        inner = block_in(kind)
        if inner and is_block(kind):
            value, found = normalize(inner, value, f"{where}.")
            texts += found
        elif inner and isinstance(value, list):
            items = []
            for index, item in enumerate(value):
                item, found = normalize(inner, item, f"{where}[{index}].")
                texts += found
                if not isinstance(item, Mapping) or not all(map(_is_empty, item.values())):
                    items.append(item)
            value = items
        elif inner and isinstance(value, Mapping):
            value = dict(value)
            for key, item in value.items():
                value[key], found = normalize(inner, item, f"{where}.{shown(key)}.")
                texts += found
        elif not inner:
            converted = _convert(value, _types(kind))
            if isinstance(value, str) and not isinstance(converted, str):
                texts.append((where, value))
            value = converted
        nullable = NoneType in get_args(kind)
        copied[name] = None if nullable and _is_empty(value) else value
    return copied, texts


def _is_empty(value: Any) -> bool:
    return value in (None, [], {}) or isinstance(value, str) and not value.strip()


def _types(kind: Any) -> set[type]:
    """Return the types that a field may have, without their constraints."""
    return {kind} if isinstance(kind, type) else set().union(*map(_types, get_args(kind)))


def _convert(value: Any, types: set[type]) -> Any:
    """Return a value as one of some types, if it stands for one."""
    text = value.strip() if isinstance(value, str) else ""
    if types & {int, float} and _NUMBER.fullmatch(text):
        value = int(text) if text.isdigit() else float(text)
    if int in types and isinstance(value, float) and value.is_integer():
        value = int(value)
    if bool in types and (text.lower() in ("true", "yes") or isinstance(value, int) and value in (0, 1)):
        value = bool(value)
    if str in types and isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    return value
