"""The report of one run, or of several side by side, as one HTML file without network or script.

``python -m evaluation.report RUN... --out FILE``

Everything in it comes from the records of the runs; the recordings are only needed for the
spectrograms and the players of the clips with the highest loss. Intervals are those of
``evaluation.json``: 95 %, over locations. Published figures are shown only next to results on the
same test split. Names in the records may be any text, and are shown as text: the page allows no
script, and asks for nothing outside of it.
"""
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluation import records
from evaluation.per_device import DEMO_NOTE, interval_text
from evaluation.report import sections
from evaluation.results import (
    METRICS,
    PUBLISHED_ON,
    changes,
    is_published_split,
    settings,
    shipped_settings,
)
from evaluation.tables import table_file
from task1a.challenge import size_verdict
from task1a.errors import InputError, printable
from task1a.files import write_text
from task1a.pipeline.run import Run

BASELINE = {"accuracy": 47.7, "logloss": 1.473}
"""the organisers' baseline on the test split of TAU Urban Acoustic Scenes 2020 Mobile"""

_TEMPLATE = Path(__file__).with_name("report.html.jinja")
# clips with a spectrogram and a player, for one run and for each of several
_PLAYERS, _PLAYERS_SIDE_BY_SIDE = 5, 2


def write(runs: Sequence[Run], path: Path) -> None:
    """Write the report of runs (:func:`page`) to a file, atomically."""
    write_text(path, page(runs))


def page(runs: Sequence[Run]) -> str:
    """Return the report of runs, as HTML.

    Raises:
        InputError: a run has not been evaluated or is given twice, or runs were tested on different
            data sets.
    """
    import jinja2

    if len({run.folder.resolve() for run in runs}) < len(runs):
        raise InputError(f"{', '.join(map(str, runs))}: a run is given twice")
    # <system>/seed<N>, or the whole path where that is not enough
    names = list(map(str, runs))
    if len(set(names)) < len(names):
        names = [run.folder.as_posix() for run in runs]
    results = {name: records.read(run, "evaluation") for name, run in zip(names, runs, strict=True)}
    first = results[names[0]]
    data = first["data"]
    for name, record in results.items():
        if record["data"] != data or record["devices"] != first["devices"]:
            raise InputError(f"{name}: was tested on {record['data']['name']} and {names[0]} on "
                             f"{data['name']}; a report compares runs on the same data")

    several = len(runs) > 1
    training_devices = records.read(runs[0], "data")["by_device"]["train"]
    scores = sections.scores_by_device(results, training_devices)
    if several:
        scores.text += sections.compare_runs(runs, names)
    headlines, shown = [], [scores]
    for run, (name, record) in zip(runs, results.items(), strict=True):
        complexity = records.read(run, "complexity") if run.complexity.is_file() else None
        headlines.append(headline(run, name, record, complexity))
        for section in (
            sections.classes(record), sections.calibration(record), sections.learning_curves(run),
            sections.size(complexity),
            sections.highest_losses(run, record, _PLAYERS_SIDE_BY_SIDE if several else _PLAYERS),
            sections.configuration(run),
        ):
            if not section.is_empty:
                section.title += f": {name}" if several else ""
                shown.append(section)

    # everything but our own drawings is escaped
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True, finalize=_printable)
    title = " and ".join(results) if len(results) < 3 else f"{len(results)} runs"
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{title} on {data['name']}" + (" (demo data)" if data["demo"] else ""),
        demo=DEMO_NOTE if data["demo"] else "", clips=data["clips"], headlines=headlines, sections=shown)


def headline(run: Run, name: str, record: Mapping[str, Any],
             complexity: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the summary cards of a run, with the published figures of its system."""
    data, published = record["data"], None
    on_published = is_published_split(data["demo"], record["labels"], record["devices"],
                                      data["clips"] + len(record.get("left_out", ())))
    if on_published:
        published = table_file.published(run.config.system)
    cards = []
    for metric, (title, decimals) in METRICS.items():
        unit = " %" if metric == "accuracy" else ""
        others = []
        if on_published:
            others.append(f"baseline of the challenge {BASELINE[metric]}{unit}")
        if metric == "accuracy" and published and published.overall is not None:
            changed = changes(shipped_settings(run.config.system) or {}, settings(run.config))
            others.append(f"paper {published.overall}{unit}"
                          + (f" with another {', '.join(changed)}" if changed else ""))
        interval = (record["intervals"]["overall"] or {}).get(metric)
        cards.append({"title": title, "value": f"{record['overall'][metric]:.{decimals}f}{unit}",
                      "interval": interval_text(interval, decimals),
                      "others": f"{'; '.join(others)} ({PUBLISHED_ON})" if others else ""})
    error = record["calibration"]["expected_calibration_error"]
    cards.append({"title": "Expected calibration error", "value": f"{error:.1f} %", "interval": "",
                  "others": "15 bins of confidence"})
    if complexity:
        size = complexity["policies"][complexity["limit_policy"]]
        cards.append({"title": "Size", "value": f"{size['KiB']:.2f} KiB", "interval": "",
                      "others": size_verdict(complexity)})
    return {"run": name, "description": run.config.description, "cards": cards}


def _printable(value: Any) -> Any:
    """Escape what a page cannot show in a text that is no markup of ours; its line ends stay."""
    import markupsafe

    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return "\n".join(map(printable, value.split("\n")))
