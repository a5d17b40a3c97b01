"""Files of tables: the systems of the rows, their names in the paper, and their published results.

A YAML file holds ``title`` and ``rows``; a row has the name of a ``system``, its ``label`` in the
paper, and its ``published`` results. The shipped files are in ``system_configs/tables/``.
"""
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from task1a.config_file import SYSTEMS
from task1a.errors import InputError, shown
from task1a.files import read_yaml

TABLES = SYSTEMS / "tables"


def _one_line(text: str) -> str:
    if not text.strip() or len(text.splitlines()) > 1:
        raise ValueError("must be one line of text")
    return text


def _without_overall(devices: dict[str, float]) -> dict[str, float]:
    if "overall" in devices:
        raise ValueError("the overall accuracy belongs next to the devices, under overall")
    return devices


Line = Annotated[str, AfterValidator(_one_line)]
Number = Annotated[float, Field(allow_inf_nan=False)]
_strict = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, config=_strict)
class Published:
    """Published results of a row; None, or no device, if they are not in the paper."""

    parameters: Line | None = None
    bits: Line | None = None
    size: Line | None = None
    devices: Annotated[dict[Line, Number], AfterValidator(_without_overall)] = Field(default_factory=dict)
    """accuracy in percent"""
    overall: Number | None = None
    """accuracy in percent"""
    deviation: Number | None = None
    """standard deviation of the overall accuracy"""
    seeds: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, config=_strict)
class Row:
    """One row of a table."""

    system: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    label: Line
    published: Published = Field(default_factory=Published)


@dataclass(frozen=True, config=_strict)
class Table:
    """A published table."""

    title: Line
    rows: Annotated[list[Row], Field(min_length=1)]
    name: str = ""
    systems: Path = SYSTEMS
    """folder of the configurations of its systems: the parent of the file's folder"""


def published(system: str) -> Published | None:
    """Return the published figures of a system of the shipped tables; None if it is in none of
    them."""
    for path in sorted(TABLES.glob("*.yaml")):
        for row in read_table(str(path)).rows:
            if row.system == system:
                return row.published
    return None


def read_table(name: str) -> Table:
    """Read a shipped table by its name (``table3``), or any table by its path.

    Raises:
        InputError: the file does not exist, is not valid YAML, or holds a wrong key or value.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else TABLES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(known.stem for known in TABLES.glob("*.yaml")))
        raise InputError(f"{name}: no such table; give {shipped}, or the path of a YAML file")
    tree = read_yaml(path)
    if not isinstance(tree, dict) or {"name", "systems"} & tree.keys():
        raise InputError(f"{path}: must hold the keys title and rows, and no others")
    try:
        # in JSON, unlike Python, a strict dataclass may be given as a mapping
        table = TypeAdapter(Table).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # rows are counted from 1
        place = [str(step + 1) if isinstance(step, int) else str(step) for step in first["loc"]]
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path}: {'.'.join(place)}: {message} (given {shown(first['input'])})") from None
    systems: set[str] = set()
    for row in table.rows:
        if row.system in systems:
            raise InputError(f"{path}: rows: two rows have the system {row.system!r}")
        systems.add(row.system)
    return replace(table, name=path.stem, systems=path.resolve().parent.parent)
