"""A draft of the technical report on a system, with marks where the authors have to write.

The draft is Markdown, ready to be edited. A digest in its first line tells a report that was edited, which is left
alone, from a draft, which is rewritten with every package. Whatever is filled in stays text: authors, labels, devices
and names come from files of any origin, and may look like HTML or Markdown.
"""
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from submission.metadata import Records, results
from submission.rules import RESULTS, Rules
from task1a.config import NETWORKS
from task1a.errors import printable

SUFFIX = ".report.md"
"""end of the file's name, after the label"""

_TEMPLATE = Path(__file__).with_name("report.md.jinja")
_SCOPES = {"global": "the smallest of all layers together", "layer": "the smallest of every layer",
           "lamp": "the smallest of all layers relative to those of their own layer (layer-adaptive magnitude pruning)"}
_TITLES = {"device_specific": "With a model for each known device", "general": "With the general model for all devices",
           **{f"split_{percent}": f"Trained on {percent} % of the training data" for percent in (5, 10, 25, 50, 100)}}
# HTML and Markdown (CommonMark, tables, mathematics); an underscore within a word is none, and keeps names legible
_MARKUP = re.compile(r"[\\`*\[\]{}<>|~$&]|(?<![^\W_])_|_(?![^\W_])|^[#+=-](?!\d)|^\d{1,9}[.)](?= |$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SCHEDULES = {"one_shot": "at once", "iterative": "in a few equal steps", "gradual": "a little before every epoch"}


def draft(meta: Mapping[str, Any], records: Sequence[Records], rules: Rules) -> str:
    """The draft of one system.

    Args:
        meta: the system's metadata.
        records: records of the system's run, or of one run for each split.
        rules: the edition.

    Raises:
        KeyError, jinja2.UndefinedError: a record lacks an entry.
    """
    import jinja2
    from markupsafe import Markup

    last = records[-1]
    runs = {}
    for block, record in results(records, rules).items():
        if record:
            runs[_TITLES.get(block.removeprefix(f"{RESULTS}."), "")] = record
    stored_bits = {title: sum(tensor["values"] * tensor["bits"] for tensor in record.complexity["tensors"])
                   for title, record in runs.items()}
    largest = max(stored_bits, key=stored_bits.get)
    stated = meta["system"]["complexity"]
    limits = [(limit, stated[limit.path.rpartition(".")[2]]) for limit in rules.limits]
    # text and the results of filters are escaped here, macros are Markup already
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        autoescape=True, finalize=lambda value: value if isinstance(value, Markup) else Markup(escaped(value)))
    environment.filters |= {"number": _number, "decimals": _decimals, "yaml": lambda tree: Markup(_yaml(tree))}
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta, rules=rules, runs=runs, last=last, networks=NETWORKS, scopes=_SCOPES, schedules=_SCHEDULES,
        members={name: last.members.get(name) for name in last.config["ensemble"]}, largest=largest,
        operations=runs[largest].complexity["multiply_accumulates"], models=_models(runs[largest]), limits=limits)
    return f"{_mark(text)}\n{text}"


def escaped(value: Any) -> str:
    """A value as one line of text that Markdown shows as it is, with control characters as their escapes."""
    line = printable(" ".join(str(value).split()))
    return _MARKUP.sub(lambda match: _ENTITIES.get(match[0], f"{match[0][:-1]}\\{match[0][-1]}"), line)


def is_untouched(path: Path) -> bool:
    """Whether a draft has not been edited."""
    mark, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    return mark == _mark(text)


def _mark(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return f"<!-- a draft, written anew with every package until it is edited; {digest} -->"


def _models(records: Records) -> dict[str, list[dict[str, Any]]]:
    """For each model of the system, the rows of its table of tensors, the last one with the sums."""
    names = [*records.config["ensemble"]] or [records.config["system"]]
    files = [model["file"] for model in records.complexity["models"]]
    tables = {}
    for index, (name, file) in enumerate(zip(names, files, strict=True)):
        rows = []
        for tensor in records.complexity["tensors"]:
            if tensor["model"] == index:
                stored_bytes = -(-tensor["values"] * tensor["bits"] // 8)
                rows.append({"name": tensor["name"], "shape": " × ".join(map(str, tensor["shape"])) or "scalar",
                             "type": tensor["dtype"],
                             "counts": (tensor["values"], tensor["non_zero"], tensor["bytes"], stored_bytes)})
        sums = [sum(column) for column in zip(*(row["counts"] for row in rows), strict=True)]
        tables[f"{name}: {file}"] = [*rows, {"name": "together", "shape": "", "type": "", "counts": sums}]
    return tables


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _decimals(scores: Mapping[str, float] | None, key: str, digits: int) -> str:
    value = scores[key] if scores else None
    return "–" if value is None else f"{value:.{digits}f}"


def _yaml(tree: Mapping[str, Any]) -> str:
    """A block of YAML, between fences that its text does not contain."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return "\n".join([f"{fence}yaml", *map(printable, text.removesuffix("\n").split("\n")), fence])
