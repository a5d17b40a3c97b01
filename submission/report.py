"""A draft of the technical report on a system, with marks where the authors have to write.

The draft is Markdown, ready to be edited. Its first line holds a digest of the rest. ``package``
overwrites a file whose digest still matches and keeps any other. Whatever is filled in stays text:
authors, labels, devices and names come from files of any origin, and may look like HTML or
Markdown.
"""
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from submission.metadata import Records, policy_bytes, results, stored_bytes
from submission.rules import RESULTS, Rules
from task1a.config import NETWORKS
from task1a.errors import printable

SUFFIX = ".report.md"
"""end of the file's name, after the label"""

_TEMPLATE = Path(__file__).with_name("report.md.jinja")
_SCOPES = {"global": "the smallest of all layers together", "layer": "the smallest of every layer",
           "lamp": "the smallest of all layers relative to those of their own layer (layer-adaptive magnitude "
                   "pruning)"}
_SCHEDULES = {"one_shot": "at once", "iterative": "in a few equal steps",
              "gradual": "a little before every epoch"}
_TITLES = {"device_specific": "With a model for each known device",
           "general": "With the general model for all devices",
           **{f"split_{percent}": f"Trained on {percent} % of the training data"
              for percent in (5, 10, 25, 50, 100)}}
# HTML and Markdown (CommonMark, tables, mathematics); an underscore within a word is none, and
# keeps names legible
_MARKUP = re.compile(r"[\\`*\[\]{}<>|~$&]|(?<![^\W_])_|_(?![^\W_])|^[#+=-](?!\d)|^\d{1,9}[.)](?= |$)")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def draft(meta: Mapping[str, Any], records: Sequence[Records], rules: Rules) -> str:
    """Write the draft of one system.

    Args:
        meta: the system's metadata.
        records: records of the system's run, or of one run for each split.
        rules: the edition.
    """
    import jinja2
    from markupsafe import Markup

    last = records[-1]
    runs, sizes = {}, {}
    for block, record in results(records, rules).items():
        if record:
            title = _TITLES.get(block.removeprefix(f"{RESULTS}."), "")
            runs[title] = record
            complexity = record.complexity
            sizes[title] = policy_bytes(complexity["policies"][complexity["limit_policy"]])
    # the tensors of one run are listed: of all splits, or of both choices of models, the largest
    largest = max(sizes, key=lambda title: sizes[title])
    stated = meta["system"]["complexity"]
    limits = [(limit, stated[limit.path.rpartition(".")[2]]) for limit in rules.limits]
    # Text and the results of filters are escaped by finalize; what macros return is Markup already.
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else Markup(escape(value)))
    environment.filters |= {"number": _number, "decimals": _decimals, "yaml": lambda tree: Markup(_yaml(tree))}
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        meta=meta, rules=rules, runs=runs, last=last, networks=NETWORKS, scopes=_SCOPES,
        schedules=_SCHEDULES, members={name: last.members.get(name) for name in last.config["ensemble"]},
        largest=largest, operations=runs[largest].complexity["multiply_accumulates"],
        models=_models(runs[largest]), limits=limits)
    return f"{_mark(text)}\n{text}"


def escape(value: Any) -> str:
    """Return a value as one line of text that Markdown shows as it is."""
    line = printable(" ".join(str(value).split()))
    # entities for the signs of HTML, a backslash before the others
    return _MARKUP.sub(lambda match: _ENTITIES.get(match[0], f"{match[0][:-1]}\\{match[0][-1]}"), line)


def is_untouched(path: Path) -> bool:
    """Return whether a draft has not been edited."""
    mark, _, text = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    return mark == _mark(text)


def _mark(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return f"<!-- a draft, written anew with every package until it is edited; {digest} -->"


def _models(records: Records) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the table of tensors of each model, the last one with the sums."""
    names = [*records.config["ensemble"]] or [records.config["system"]]
    tables = {}
    for number, (name, model) in enumerate(zip(names, records.complexity["models"], strict=False)):
        rows, sums = [], [0, 0, 0, 0]
        for tensor in records.complexity["tensors"]:
            if tensor["model"] != number:
                continue
            counts = (tensor["values"], tensor["non_zero"], tensor["bytes"],
                      stored_bytes([(tensor["bits"], tensor["values"])]))
            sums = [total + count for total, count in zip(sums, counts, strict=True)]
            rows.append({"name": tensor["name"], "shape": " × ".join(map(str, tensor["shape"])) or "scalar",
                         "type": tensor["dtype"], "counts": counts})
        rows.append({"name": "together", "shape": "", "type": "", "counts": sums})
        tables[f"{name}: {model['file']}"] = rows
    return tables


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _decimals(scores: Mapping[str, float] | None, key: str, digits: int) -> str:
    value = scores[key] if scores else None
    return "–" if value is None else f"{value:.{digits}f}"


def _yaml(tree: Mapping[str, Any]) -> str:
    """Format a block of YAML, between fences that its text does not contain."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}yaml", *map(printable, text.removesuffix("\n").split("\n")), fence])
