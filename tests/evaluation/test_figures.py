"""Figures, by what is drawn: positions, lengths and labels of the axes."""
import warnings

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from evaluation.report import figures


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """The figure functions return the axes, and the legend as names by colour, instead of the drawing."""
    def axes_and_legend(figure, title):
        axes, = figure.axes
        legend = {}
        for found in figure.legends:
            for text, handle in zip(found.get_texts(), found.legend_handles, strict=True):
                colour = handle.get_color() if isinstance(handle, Line2D) else np.ravel(handle.get_facecolor())
                legend[text.get_text()] = to_rgba(colour)
        return axes, legend
    monkeypatch.setattr(figures, "_svg", axes_and_legend)


def rows_by_name(axes):
    """Height of each row, by its label, and whether it is further down the higher it is."""
    assert axes.yaxis.get_inverted()
    return {label.get_text(): height for label, height in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)}


def test_intervals_of_one_run():
    values = {"overall": (50.0, (40.0, 60.0)), "a": (70.0, (65.0, 75.0)), "b": (30.0, None), "all seen": (45.0, (1, 2))}
    axes, legend = figures.intervals([["overall"], ["a", "b", "all seen"]], {"plain": list(values.values())},
                                     "accuracy (%)", {"uniform guess": 10.0})
    rows = rows_by_name(axes)
    assert list(rows) == list(values) and list(rows.values()) == sorted(rows.values())  # from top to bottom
    bars = {round(bar.get_y() + bar.get_height() / 2, 9): bar.get_width() for bar in axes.patches}
    markers = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
    assert bars == markers == {height: values[name][0] for name, height in rows.items()}
    ranges = {line.get_ydata()[0]: tuple(line.get_xdata()) for line in axes.lines
              if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1] != rows["a"] - 0.5}
    assert ranges == {rows[name]: interval for name, (_, interval) in values.items() if interval}
    guess, = [line for line in axes.lines if tuple(line.get_xdata()) == (10, 10)]
    assert tuple(guess.get_ydata()) == (0, 1) and list(legend) == ["uniform guess"]
    assert [tuple(line.get_ydata()) for line in axes.lines if tuple(line.get_xdata()) == (0, 1)] == [(0.5, 0.5)]
    assert axes.get_xlabel() == "accuracy (%)"


def test_intervals_of_several_runs():
    series = {"_first": [(1.0, (0.5, 1.5)), None], "second": [(2.0, None), (3.0, (2.5, 3.5))]}
    axes, legend = figures.intervals([["overall"], ["a"]], series, "log loss (nats)", {})
    rows = rows_by_name(axes)
    assert not axes.patches and list(legend) == ["_first", "second"]  # although matplotlib leaves out names with _
    found = {}
    for line in axes.lines:
        if len(line.get_xdata()) == 1:
            row = min(rows, key=lambda name: abs(rows[name] - line.get_ydata()[0]))
            run = next(name for name, colour in legend.items() if colour == to_rgba(line.get_color()))
            found[run, row] = (line.get_xdata()[0], line.get_ydata()[0] - rows[row])
    assert {key: value for key, (value, _) in found.items()} == {
        ("_first", "overall"): 1, ("second", "overall"): 2, ("second", "a"): 3}
    assert found["_first", "overall"][1] < found["second", "overall"][1]  # next to each other, not on top


def test_heat_map():
    values = np.array([[0.0, 1.0, 2.0], [3.0, np.nan, 5.0]])
    axes, _ = figures.heat_map(values, ["bus", "park"], ["a", "b", "s1"], "Log loss", 1)
    image, = axes.images
    np.testing.assert_array_equal(image.get_array().filled(np.nan), values)
    assert list(image.get_extent()[2:]) == [1.5, -0.5]  # the first row is on top
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bus", "park"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "s1"]
    assert (list(axes.get_yticks()), list(axes.get_xticks())) == ([0, 1], [0, 1, 2])
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "0.0", (1, 0): "1.0", (2, 0): "2.0", (0, 1): "3.0", (2, 1): "5.0"}
    axes, _ = figures.heat_map(np.zeros((400, 2)), [f"scene {row}" for row in range(400)], ["a", "b"], "Log loss", 1)
    assert not axes.texts and axes.figure.get_figheight() < 15
    assert {label.get_text(): row for label, row in zip(axes.get_yticklabels(), axes.get_yticks(), strict=True)} == {
        f"scene {row}": row for row in range(0, 400, 10)}


def test_reliability_diagram():
    bins = [{"clips": 30, "confidence": 20.0, "accuracy": 90.0}, {"clips": 0, "confidence": None, "accuracy": None},
            {"clips": 10, "confidence": 60.0, "accuracy": 40.0}]
    axes, legend = figures.reliability({"before": bins, "after": bins[:1]})
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("confidence of the predicted scene (%)", "accuracy (%)")
    assert axes.get_xlim() == axes.get_ylim() == (0, 100)
    before, after = axes.collections
    assert before.get_offsets().tolist() == [[20, 90], [60, 40]] and after.get_offsets().tolist() == [[20, 90]]
    sizes = before.get_sizes() - 8  # the area is proportional to the number of clips, above a smallest one
    assert sizes[0] == pytest.approx(3 * sizes[1])
    assert {tuple(map(tuple, line.get_xydata())) for line in axes.lines} == {
        ((0, 0), (100, 100)), ((20, 90), (60, 40)), ((20, 90),)}
    assert set(legend) == {"perfectly calibrated", "before", "after"}


def test_curves():
    history = {"training loss": np.array([2.0, 1.0, 0.5]), "validation log loss": np.array([np.nan, 1.5, 1.25])}
    axes, legend = figures.curves({**history, "none": np.full(3, np.nan)}, "loss (nats)")
    for line, values in zip(axes.lines, history.values(), strict=True):
        assert line.get_xdata().tolist() == [1, 2, 3]
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert (axes.get_xlabel(), axes.get_ylabel(), list(legend)) == ("epoch", "loss (nats)", list(history))


def test_stacked_bars():
    axes, legend = figures.stacks({"stem": {"8 bit": 100.0, "16 bit": 30.0}, "head": {"16 bit": 20.0},
                                   "stage": {"8 bit": 50.0, "32 bit": 7.0}}, "bytes")
    rows = rows_by_name(axes)
    assert list(rows) == ["stem", "head", "stage"] and list(rows.values()) == sorted(rows.values())
    spans = {}
    for bar in axes.patches:
        if bar.get_width():
            row = next(name for name, height in rows.items() if abs(bar.get_y() + bar.get_height() / 2 - height) < 1e-9)
            part = next(name for name, colour in legend.items() if colour == bar.get_facecolor())
            spans[row, part] = bar.get_x(), bar.get_x() + bar.get_width()
    assert spans == {("stem", "8 bit"): (0, 100), ("stem", "16 bit"): (100, 130), ("head", "16 bit"): (0, 20),
                     ("stage", "8 bit"): (0, 50), ("stage", "32 bit"): (50, 57)}
    assert axes.get_xlabel() == "bytes"


def test_spectrogram_of_a_tone():
    """A tone of 3 kHz in the second half of two seconds."""
    rate = 16000
    samples = np.sin(2 * np.pi * 3000 * np.arange(2 * rate) / rate) * (np.arange(2 * rate) >= rate)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes, _ = figures.spectrogram(samples, rate, "tone")
    image, = axes.images
    power = np.asarray(image.get_array())[::-1]  # from 0 Hz
    left, right, low, high = image.get_extent()
    kilohertz = np.linspace(low, high, len(power))[power.mean(axis=1).argmax()]
    assert kilohertz == pytest.approx(3, abs=0.05) and (low, high) == (0, 8)
    loud = power.max(axis=0) > power.max() - 20
    assert not loud[:loud.size // 2 - 2].any() and loud[loud.size // 2 + 2:].all()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.4", "0.8", "1.2", "1.6", "2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("s", "kHz")


@pytest.mark.parametrize(("name", "shown"), [
    ("street_traffic", "street_traffic"), ("$\\frac{1}{$", "$\\frac{1}{$"), ("\u202ebus\n", r"\u202ebus\n"),
    ("x" * 500, "x" * 23 + "…"),
])
def test_names_are_drawn_as_text(name, shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        axes, _ = figures.stacks({name: {"8 bit": 1.0}}, "bytes")
    label, = axes.get_yticklabels()
    assert label.get_text() == shown and not label.get_parse_math()
