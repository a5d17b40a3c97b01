"""Nested blocks of fields, and YAML with a comment above every field.

The YAML is written here because ruamel.yaml, which keeps comments, quotes by the rules of YAML 1.2: the name ``No`` and
the number ``1e-05`` would be read as something else by the YAML 1.1 readers of the organisers.
"""
import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml


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
