"""Figures of the report: matplotlib drawings as inline SVG that follow the page's text colour.

Every figure is drawn for a width of 400 pixels, so that it is legible on a telephone. Colours are
those of Okabe and Ito (*Color Universal Design*, 2008), which people with any colour vision can
distinguish; several runs differ in their marker, too. Names of scenes, devices, files and the like
may be any text: they are drawn as text (:func:`task1a.errors.printable`), never as mathematics or
markup.
"""
import html
import io
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from task1a.errors import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP"

# replaced by the text colour of the page
_INK = "#010203"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 8, "font.family": "sans-serif",
    "text.color": _INK, "axes.edgecolor": _INK, "axes.labelcolor": _INK, "xtick.color": _INK,
    "ytick.color": _INK, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.6,
    "legend.frameon": False, "text.parse_math": False,
}

# characters of a name in a drawing; the tables of numbers have the whole name
_LONGEST = 24
# rows or columns of a heat map with a number in each cell; of more, only some are named
_MOST = 40

Interval = Sequence[float] | None


def intervals(groups: Sequence[Sequence[str]],
              series: Mapping[str, Sequence[tuple[float, Interval] | None]], label: str,
              reference: Mapping[str, float]) -> str:
    """Draw bars with 95 % intervals, one row per device; several runs as markers in the same row.

    Args:
        groups: names of the rows of each group, from top to bottom.
        series: value and interval of every row, or None, by run.
        label: label of the axis, with its unit.
        reference: values drawn as vertical lines, by name.
    """
    rows: list[str] = sum(map(list, groups), [])
    with _figure(0.9 + len(rows) * (0.2 + 0.1 * len(series))) as (figure, axes):
        for row in np.cumsum(list(map(len, groups)))[:-1]:
            axes.axhline(row - 0.5, color=_INK, linewidth=0.6, linestyle=":")
        legend: dict[str, Any] = {}
        for number, (run, values) in enumerate(series.items()):
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            # the runs share the height of a row
            offset = (number - (len(series) - 1) / 2) * 0.7 / len(series)
            for row, found in enumerate(values):
                if found is None:
                    continue
                value, interval = found
                if len(series) == 1:
                    axes.barh(row, value, height=0.7, color=COLOURS[5], alpha=0.7)
                if interval:
                    axes.plot(interval, [row + offset] * 2, color=colour, linewidth=1.4)
                drawn, = axes.plot(value, row + offset, marker, color=colour, markersize=4)
                if len(series) > 1:
                    legend.setdefault(run, drawn)
        for number, (name, value) in enumerate(reference.items()):
            style = ("--", ":", "-.")[number % 3]
            legend[name] = axes.axvline(value, color=_INK, linewidth=0.8, linestyle=style)
        axes.set_yticks(range(len(rows)), _names(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        if legend:
            figure.legend(list(legend.values()), _names(legend), loc="outside lower center")
        return _svg(figure, f"{label} by device, with 95 % intervals")


def heat_map(values: np.ndarray, rows: Sequence[str], columns: Sequence[str], label: str,
             decimals: int) -> str:
    """Draw a table of numbers as colours, with the number in every cell up to 40 by 40; NaN is
    empty.

    Shape: values [rows, columns].
    """
    rows, columns = _names(rows), _names(columns)
    longest = max(map(len, columns))
    with _figure(0.5 + 0.26 * min(len(rows), _MOST) + 0.055 * longest) as (figure, axes):
        largest = np.nanmax(values) if np.isfinite(values).any() else 1.0
        axes.imshow(values, cmap="cividis_r", aspect="auto", vmin=0, vmax=largest)
        for row, column in np.argwhere(np.isfinite(values)) if max(values.shape) <= _MOST else ():
            dark = values[row, column] > 0.55 * largest
            axes.text(column, row, f"{values[row, column]:.{decimals}f}", ha="center", va="center",
                      fontsize=7, color="#ffffff" if dark else "#000000")
        across, down = 1 + (len(columns) - 1) // _MOST, 1 + (len(rows) - 1) // _MOST
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right"} if longest > 4 else {}
        axes.set_xticks(range(0, len(columns), across), columns[::across], rotation_mode="anchor", **slanted)
        axes.set_yticks(range(0, len(rows), down), rows[::down])
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        return _svg(figure, f"{label}, as a table of {len(rows)} by {len(columns)}")


def reliability(bins: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Draw accuracy against confidence; the area of a marker is the number of the clips of its bin.

    Args:
        bins: ``confidence``, ``accuracy`` (in percent) and ``clips`` of every bin, by the name of
            the series.
    """
    with _figure(3.2) as (figure, axes):
        axes.plot([0, 100], [0, 100], color=_INK, linewidth=0.6, linestyle="--",
                  label="perfectly calibrated")
        for number, (name, points) in enumerate(bins.items()):
            used = [(point["confidence"], point["accuracy"], point["clips"]) for point in points if point["clips"]]
            confidence, accuracy, clips = np.array(used, float).reshape(-1, 3).T
            axes.plot(confidence, accuracy, color=COLOURS[number], linewidth=1)
            axes.scatter(confidence, accuracy, 8 + 250 * clips / clips.sum(), color=COLOURS[number],
                         alpha=0.7, marker=MARKERS[number], label=name)
        axes.set_xlabel("confidence of the predicted scene (%)")
        axes.set_ylabel("accuracy (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 100)
        figure.legend(loc="outside lower center", ncols=2)
        return _svg(figure, "Reliability diagram: accuracy against confidence")


def curves(histories: Mapping[str, np.ndarray], label: str) -> str:
    """Draw curves over the epochs.

    Args:
        histories: values of every epoch by the name of the curve; NaN is not drawn.
        label: label of the axis.
    """
    from matplotlib.ticker import MaxNLocator

    with _figure(2.6) as (figure, axes):
        for number, (name, values) in enumerate(histories.items()):
            if np.isfinite(values).any():
                axes.plot(np.arange(1, len(values) + 1), values, ("-", "--")[number % 2], linewidth=1,
                          color=COLOURS[number % len(COLOURS)], label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.legend(loc="outside lower center", ncols=2)
        return _svg(figure, f"{label} by epoch")


def stacks(parts: Mapping[str, Mapping[str, float]], label: str) -> str:
    """Draw horizontal bars of stacked parts.

    Args:
        parts: values by the name of the part, by the name of the bar, from top to bottom.
        label: label of the axis.
    """
    names: dict[str, None] = {}
    for bar in parts.values():
        names |= dict.fromkeys(bar)
    with _figure(0.9 + 0.17 * len(parts)) as (figure, axes):
        left = np.zeros(len(parts))
        for number, name in enumerate(names):
            values = np.array([bar.get(name, 0.0) for bar in parts.values()])
            colour = COLOURS[number % len(COLOURS)]
            axes.barh(range(len(parts)), values, left=left, height=0.75, label=name, color=colour)
            left += values
        axes.set_yticks(range(len(parts)), _names(parts))
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.set_xlabel(label)
        if len(names) > 1:
            figure.legend(loc="outside lower center", ncols=len(names))
        return _svg(figure, f"{label} by layer")


def spectrogram(samples: np.ndarray, rate: int, title: str) -> str:
    """Draw the spectrogram of a recording, up to its highest frequency.

    Shape: samples [n].
    """
    with _figure(1.7) as (figure, axes):
        with np.errstate(divide="ignore"):  # of digital silence, which is left blank
            axes.specgram(samples + 1e-12, NFFT=1024, noverlap=512, Fs=rate / 1000, cmap="cividis",
                          rasterized=True)
        # with the rate in kHz, for the frequencies, specgram counts milliseconds
        seconds = np.linspace(0, len(samples) / rate, 6)
        axes.set_xticks(seconds * 1000, [f"{value:.3g}" for value in seconds])
        axes.set_xlabel("s")
        axes.set_ylabel("kHz")
        return _svg(figure, f"Spectrogram of {title}")


@contextmanager
def _figure(height: float) -> "Iterator[tuple[Figure, Axes]]":
    """Yield an empty figure of a height in inches, and apply the style to what is drawn
    meanwhile."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(4.17, height), layout="constrained")
        yield figure, figure.add_subplot()


def _names(texts: Iterable[str]) -> list[str]:
    names = []
    for name in map(printable, texts):
        names.append(f"{name[:_LONGEST - 1]}…" if len(name) > _LONGEST else name)
    return names


def _svg(figure: "Figure", title: str) -> str:
    """Return the figure as an SVG element, scaled to the page, with ``title`` as alternative
    text."""
    text = io.StringIO()
    with warnings.catch_warnings():
        # about signs that matplotlib's font lacks: the browser draws them with its own
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(text, format="svg", transparent=True, dpi=72, metadata={"Date": None, "Creator": None})
    drawing = text.getvalue()
    drawing = drawing[drawing.index("<svg"):].replace(_INK, "currentColor")
    # ids that all figures of the page would share
    drawing = re.sub(r'<g id="[^"]*">', "<g>", drawing)
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    box = re.findall(r'viewBox="[^"]*"', drawing)[0]
    _, body = drawing.split(">", 1)
    title = html.escape(printable(title))
    return (f'<svg role="img" aria-label="{title}" {box} xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink"><title>{title}</title>{body}')
