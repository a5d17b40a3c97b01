"""The authors' file: everything about a submission that a run cannot know, as YAML.

It has the blocks of the metadata file, with the list ``authors`` at the top. A file may serve
several editions: fields that an edition does not have are left out of its metadata.
"""
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from submission import schema
from submission.metadata import nest, to_text
from submission.rules import Rules
from submission.validation import fields
from submission.validation.findings import Finding, with_level
from submission.validation.metadata import at, check_authors
from task1a.errors import InputError, shown
from task1a.files import parse_yaml, read_yaml

INIT = "python -m submission.package --init"

_EXAMPLES: list[dict[str, Any]] = [
    {"lastname": "Lastname", "firstname": "Firstname", "email": "firstname.lastname@example.org", "corresponding": True,
     "affiliation": {"abbreviation": "INST", "institute": "Institute of Examples",
                     "department": "Department of Placeholders", "location": "City, Country"}},
    {"lastname": "Secondname", "firstname": "Firstname", "email": "firstname.secondname@example.org",
     "affiliation": {"abbreviation": "INST", "institute": "Institute of Examples", "department": None,
                     "location": "City, Country"}},
]
_EXAMPLE_VALUES = {"system.inference_code": "https://example.org/Lastname_INST_task1_inference"}
_EMPTY: dict[str, Any] = {"system.external_datasets": []}  # the other fields are null if nothing is given
# letters that Unicode does not decompose into a Latin letter and an accent
_LATIN = str.maketrans({"ß": "ss", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe",
                        "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "Th", "ı": "i"})


def read(path: Path | None, rules: Rules) -> dict[str, Any]:
    """Read the authors' file; the first author is the corresponding one unless another is marked.

    Args:
        path: the file; default: the template.
        rules: the edition.

    Returns:
        Values by the paths of the metadata file, e.g. ``submission.authors``.

    Raises:
        InputError: the file does not exist or has problems, which are listed in one line each.
    """
    if path is None:
        file, tree = f"the authors' file (none is given; start one with {INIT})", parse_yaml(template(rules))
    elif Path(path).is_file():
        file, tree = str(path), read_yaml(Path(path))
    else:
        raise InputError(f"{path}: no such file with authors; start one with: {INIT}")

    model, values = schema.authors_file(rules.year), {}
    for place, _ in schema.leaves(model):
        value = at(tree, place)
        values[place] = _EMPTY.get(place) if value is None else value
    # the file is checked as it is, then for what this edition requires
    findings = fields.check(schema.authors_file(None), {} if tree is None else tree, file, unknown="error")
    findings += fields.check(model, nest(values), file, unknown="error")
    findings += check_authors(values["authors"], file, "authors")
    _refuse(with_level(findings, "error"))

    given: list[dict[str, Any]] = values.pop("authors") or []
    corresponding = _corresponding(given)
    unusable = []
    for field, text in (("lastname", corresponding["lastname"]),
                        ("affiliation.abbreviation", corresponding["affiliation"]["abbreviation"])):
        if not _label_part(text):
            unusable.append(Finding("error", file, field, shown(text),
                                    "at least one Latin letter or digit, for the label"))
    _refuse(unusable)
    authors = []
    for author in given:
        # in the order of the example, with one mark
        marked = {**author, "corresponding": True if author is corresponding else None}
        ordered = {key: marked[key] for key in _EXAMPLES[0] if marked[key] is not None}
        ordered["affiliation"] = {key: author["affiliation"].get(key) for key in _EXAMPLES[0]["affiliation"]}
        authors.append(ordered)
    return {"submission.authors": authors, **values}


def team(authors: Sequence[Mapping[str, Any]]) -> str:
    """Return the first parts of a label, ``<Lastname>_<Institute>`` of the corresponding author."""
    author = _corresponding(authors)
    return f"{_label_part(author['lastname'])}_{_label_part(author['affiliation']['abbreviation'])}"


def template(rules: Rules) -> str:
    """Return the authors' file of an edition, to be filled in, with example authors."""
    model = schema.authors_file(rules.year)
    comments, values = schema.comments(model), {}
    for path, field in schema.leaves(model):
        values[path] = _EXAMPLE_VALUES.get(path, _EMPTY.get(path))
        if field.annotation in (float, str):
            comments[path] += " Must be filled in."
    values["authors"] = _EXAMPLES
    return (f"# What only the authors of a submission to {rules.name} can say. Put yourselves in, and package runs "
            "with it:\n#   python -m submission.package RUN --authors THIS_FILE --out DIR\n"
            "# A package with the addresses below is made as well, but is marked as not submittable.\n"
            + to_text(nest(values), comments))


def _refuse(problems: Sequence[Finding]) -> None:
    if problems:
        raise InputError(*dict.fromkeys(str(problem).removeprefix("error: ") for problem in problems))


def _corresponding(authors: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((author for author in authors if author.get("corresponding")), authors[0])


def _label_part(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text.translate(_LATIN))
    return "".join(c for c in plain if c.isascii() and (c.isalnum() or c == "-")).strip("-")
