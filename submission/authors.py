"""The authors' file: everything about a submission that no run can know, as YAML.

It has the blocks of the metadata file, with the list ``authors`` at the top; which fields, the rules of the edition say
(``of_authors``). A file may serve several editions: what one of them does not ask for is left out of its metadata.
"""
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from submission.blocks import nested, to_text
from submission.check_meta import check_authors, check_fields
from submission.findings import Finding, shown
from submission.rules import EDITIONS, Field, Rules
from task1a.errors import InputError
from task1a.files import parse_yaml, read_yaml

INIT = "python -m submission.package --init"

_EXAMPLES = [
    {"lastname": "Lastname", "firstname": "Firstname", "email": "firstname.lastname@example.org", "corresponding": True,
     "affiliation": {"abbreviation": "INST", "institute": "Institute of Examples",
                     "department": "Department of Placeholders", "location": "City, Country"}},
    {"lastname": "Secondname", "firstname": "Firstname", "email": "firstname.secondname@example.org",
     "affiliation": {"abbreviation": "INST", "institute": "Institute of Examples", "department": None,
                     "location": "City, Country"}},
]
# letters that Unicode does not decompose into a Latin one and an accent
_LATIN = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe",
                        "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"})


def read(path: Path | None, rules: Rules) -> dict[str, Any]:
    """Read the authors' file; where nobody is marked as corresponding, the first author is.

    Args:
        path: of the file; the template where there is none.
        rules: the edition.

    Returns:
        Values by the paths of the metadata file, e.g. ``submission.authors``.

    Raises:
        InputError: one line for every problem of the file.
    """
    file = str(path) if path else f"the authors' file (none is given; start one with {INIT})"
    if path and not Path(path).is_file():
        raise InputError(f"{path}: no such file with authors; start one with: {INIT}")
    tree = read_yaml(Path(path)) if path else parse_yaml(template(rules))
    entries = list(_entries(tree))
    given = {path: value for _, path, value in entries}
    fields = [replace(field, path=_in_file(field)) for field in rules.fields if field.of_authors]
    values = {field.path: _empty(field) if given.get(field.path) is None else given[field.path]
              for field in _leaves(fields)}
    problems = [*_unknown(entries, file), *check_fields(nested(values), file, fields),
                *check_authors(values["authors"], file, "authors")]
    _refuse(problem for problem in problems if problem.level == "error")
    values["authors"] = _authors(values["authors"])
    _refuse(Finding("error", file, field, text, "at least one Latin letter or digit, for the label")
            for field, text in _label_sources(values["authors"]) if not _label_part(text))
    return {field.path: values[_in_file(field)] for field in _leaves(rules.fields) if field.of_authors}


def team(authors: Sequence[Mapping[str, Any]]) -> str:
    """The first two parts of a label, ``<Lastname>_<Institute>`` of the corresponding author, in plain letters."""
    return "_".join(_label_part(text) for _, text in _label_sources(authors))


def template(rules: Rules) -> str:
    """The authors' file of an edition, to be filled in: example authors, and nothing said of the rest."""
    fields = [replace(field, path=_in_file(field)) for field in rules.fields]
    wanted = [field for field in _leaves(fields) if field.of_authors]
    comments = {field.path: field.comment for field in fields}
    comments |= {field.path: f"{field.comment} Must be filled in." for field in wanted if field.kind == "number"}
    values = {field.path: _empty(field) for field in wanted} | {"authors": _EXAMPLES}
    return (f"# What only the authors of a submission to {rules.name} can say. Put yourselves in, and package runs "
            "with it:\n#   python -m submission.package RUN --authors THIS_FILE --out DIR\n"
            "# A package with the addresses below is made as well, but is marked as not submittable.\n"
            + to_text(nested(values), comments))


def _in_file(field: Field) -> str:
    return field.path.removeprefix("submission.")


def _leaves(fields: Sequence[Field]) -> list[Field]:
    """The fields that hold a value or a list, without those of the list's items."""
    return [field for field in fields if field.kind != "block" and "*" not in field.path]


def _empty(field: Field) -> Any:
    return [] if field.kind == "optional list" else None


def _refuse(problems: Iterator[Finding]) -> None:
    lines = [str(problem).removeprefix("error: ") for problem in problems]
    if lines:
        raise InputError("\n".join(lines))


def _entries(node: Any, where: str = "", path: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every field of the file: where it stands, its path with ``*`` for the items of lists, its value."""
    for key, value in node.items() if isinstance(node, Mapping) else ():
        here, field = (f"{above}.{key}" if above else str(key) for above in (where, path))
        yield here, field, value
        yield from _entries(value, here, field)
        for index, item in enumerate(value) if isinstance(value, list) else ():
            yield from _entries(item, f"{here}[{index}]", f"{field}.*")


def _unknown(entries: Sequence[tuple[str, str, Any]], file: str) -> Iterator[Finding]:
    """Name every field that no edition asks the authors for, and every value where fields are expected."""
    fields = [field for rules in EDITIONS.values() for field in rules.fields if field.of_authors]
    known = {above for field in fields for above in _with_blocks(_in_file(field))}
    blocks = {path for path in known if "*" not in path} - {_in_file(field) for field in _leaves(fields)}
    for where, path, value in entries:
        block = path.rpartition(".")[0]
        if path not in known and (not block or block in known):
            beside = sorted(name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == block)
            yield Finding("error", file, where, "a field that is not asked for", f"only {', '.join(beside)} there")
        elif path in blocks and not isinstance(value, Mapping | None):
            yield Finding("error", file, where, shown(value), "a block of fields")


def _with_blocks(path: str) -> Iterator[str]:
    keys = path.split(".")
    return (".".join(keys[:end]) for end in range(1, len(keys) + 1))


def _authors(authors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The authors with their fields in one order; exactly one is marked."""
    first = _corresponding(authors)
    marked = [{**author, "corresponding": True if author is first else None} for author in authors]
    return [{key: author[key] for key in _EXAMPLES[0] if author[key] is not None} |
            {"affiliation": {key: author["affiliation"][key] for key in _EXAMPLES[0]["affiliation"]}}
            for author in marked]


def _corresponding(authors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((author for author in authors if author.get("corresponding")), authors[0])


def _label_sources(authors: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], tuple[str, str]]:
    author = _corresponding(authors)
    return ("lastname", author["lastname"]), ("affiliation.abbreviation", author["affiliation"]["abbreviation"])


def _label_part(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_LATIN))
    return "".join(c for c in plain if c.isascii() and (c.isalnum() or c == "-")).strip("-")
