"""The file of a table: the systems of its rows, what they are called in the paper, and what is published of them.

A YAML file holds ``title`` and ``rows``; a row names a ``system``, the ``label`` that it has in the paper, and the
``published`` figures. ``table3`` is the file of that name in ``system_configs/tables/``; a path is taken as such.
"""
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from task1a.errors import InputError
from task1a.run_folder import read_yaml

SYSTEMS = Path(__file__).resolve().parent.parent / "system_configs"
TABLES = SYSTEMS / "tables"


@dataclass(frozen=True)
class Published:
    """What the paper says of a row; None, or no device, where it says nothing."""

    parameters: str | None = None
    bits: str | None = None
    size: str | None = None
    devices: Mapping[str, float] = field(default_factory=dict)
    """accuracy in percent"""
    overall: float | None = None
    """accuracy in percent"""
    deviation: float | None = None
    """of the overall accuracy"""
    seeds: int | None = None


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    system: str
    label: str
    published: Published


@dataclass(frozen=True)
class Table:
    """A published table."""

    name: str
    title: str
    rows: tuple[Row, ...]
    systems: Path
    """where the configurations of its systems lie: the folder above its own"""


def read_table(name: str) -> Table:
    """Read a shipped table by its name (``table3``), or any by its path.

    Raises:
        InputError: there is no such file, it is no YAML, or a key or a value in it is wrong.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TABLES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(known.stem for known in TABLES.glob("*.yaml")))
        raise InputError(f"{name}: no such table; give {shipped}, or the path of a YAML file")
    tree = read_yaml(path)
    _check_keys(str(path), tree, known=("title", "rows"), required=("title", "rows"))
    if not isinstance(tree["rows"], list) or not tree["rows"]:
        raise InputError(f"{path}: rows: must be a list of at least one row")
    rows = tuple(_read_row(f"{path}: rows: {number}", row) for number, row in enumerate(tree["rows"], start=1))
    systems = [row.system for row in rows]
    twice = [system for system in systems if systems.count(system) > 1]
    if twice:
        raise InputError(f"{path}: rows: two rows are of the system {twice[0]!r}")
    return Table(path.stem, _text(f"{path}: title", tree["title"]), rows, path.resolve().parent.parent)


def number(where: str, value: Any) -> float:
    """A number that was read from a file.

    Raises:
        InputError: it is none, or not finite; ``where`` is named.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise InputError(f"{where}: must be a number (given {value!r})")
    return float(value)


def _read_row(where: str, tree: Any) -> Row:
    _check_keys(where, tree, known=("system", "label", "published"), required=("system", "label"))
    system = _text(f"{where}: system", tree["system"])
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", system):
        raise InputError(f"{where}: system: {system!r} is not the name of a system")
    return Row(system, _text(f"{where}: label", tree["label"]),
               _read_published(f"{where}: published", tree.get("published") or {}))


def _read_published(where: str, tree: Any) -> Published:
    _check_keys(where, tree, known=("parameters", "bits", "size", "devices", "overall", "deviation", "seeds"))
    texts = {key: _text(f"{where}: {key}", tree[key]) for key in ("parameters", "bits", "size") if key in tree}
    numbers = {key: number(f"{where}: {key}", tree[key]) for key in ("overall", "deviation") if key in tree}
    seeds = tree.get("seeds")
    if seeds is not None and (not isinstance(seeds, int) or isinstance(seeds, bool) or seeds < 1):
        raise InputError(f"{where}: seeds: must be a count (given {seeds!r})")
    devices = tree.get("devices") or {}
    if not isinstance(devices, dict) or "overall" in devices:
        raise InputError(f"{where}: devices: must hold the accuracy of each device, overall is beside it")
    return Published(**texts, **numbers, seeds=seeds, devices={
        _text(f"{where}: devices", name): number(f"{where}: devices: {name}", value)
        for name, value in devices.items()})


def _check_keys(where: str, tree: Any, known: Sequence[str], required: Sequence[str] = ()) -> None:
    if not isinstance(tree, dict):
        raise InputError(f"{where}: must hold keys ({', '.join(known)})")
    unknown = [key for key in tree if key not in known]
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r} (known are {', '.join(known)})")
    missing = [key for key in required if key not in tree]
    if missing:
        raise InputError(f"{where}: no key {missing[0]!r}")


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value.splitlines()) > 1:
        raise InputError(f"{where}: must be one line of text (given {value!r})")
    return value
