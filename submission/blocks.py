"""Metadata as blocks within blocks: made of values by path, and written as YAML with a comment above every field."""
import math
from collections.abc import Iterator, Mapping
from typing import Any

import yaml


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Blocks of the values, which are given by path (keys joined by dots), in the same order."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *above, key = path.split(".")
        block = tree
        for name in above:
            block = block.setdefault(name, {})
        block[key] = value
    return tree


def to_text(tree: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """A tree as YAML; its comment stands above every field where that occurs for the first time.

    Args:
        tree: blocks, lists of blocks, and plain values.
        comments: by path; ``*`` is every item of a list, or every entry of a block with free names.
    """
    return "\n".join(_lines(tree, (), comments, set())) + "\n"


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
