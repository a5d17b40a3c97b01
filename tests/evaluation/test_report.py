"""The report as a reader and a browser see it."""
import base64
import io
import json
import os
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile

from evaluation import calibration, metrics
from evaluation.report import figures, sections
from evaluation.report import page as report
from evaluation.report.__main__ import main
from evaluation.report.media import read_media
from task1a.challenge import DEVICES, LABELS
from task1a.errors import InputError, run_command
from task1a.pipeline.run import Run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RECORDING = "audio/park-oslo-2-1-b.wav"
VOID = {"meta", "br", "img", "input", "link"}


class Page(HTMLParser):
    """Elements of a page in their order, with a check that they are closed properly."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag):
        return [name for name, _ in self.elements].count(tag)


@pytest.fixture
def write_evaluated(tmp_path, reference, predictions, write_run):
    """Writes a run with all of its records, and one recording of its test split; ``names`` gives its scenes, devices
    and that recording other names."""
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(32000) / 16000)
    located = reference.assign(identifier=[f"oslo-{number}" for number in range(8)])
    (tmp_path / "data" / "audio").mkdir(parents=True)

    def write(system, seed=0, demo=False, names=None, config=None, **more):
        names = names or {}
        soundfile.write(tmp_path / "data" / names.get(RECORDING, RECORDING), tone, 16000, format="WAV")
        truth, predicted = located.replace(names), predictions.rename(columns=names).replace(names)
        results = metrics.evaluate(truth, predicted, seen_devices={names.get(name, name) for name in ("a", "b")})
        config = {"description": "a <small> system", **(config or {})}
        config["data"] = {"root": str(tmp_path / "data"), **config.get("data", {})}
        record = {"data": {"name": names.get("tiny", "tiny"), "demo": demo, "clips": 8}, **results, **more}
        folder = write_run(tmp_path / "runs", system, seed, {"overall": 0}, config=config, **record)
        train = {names.get(name, name): 3 for name in "ab"}
        data = {"name": "tiny", "demo": demo, "clips": {"train": 6}, "by_device": {"train": train}}
        (folder / "data.json").write_text(json.dumps(data), encoding="utf-8")
        (folder / "train").mkdir()
        pd.DataFrame({"epoch": [1, 2], "learning_rate": [0.1, 0.05], "train_loss": [2.0, 1.5],
                      "validation_accuracy": [20.0, 30.0], "validation_log_loss": [2.1, 1.9], "seconds": [1, 1],
                      }).to_csv(folder / "train" / "history.csv", index=False)
        return folder

    return write


def written(tmp_path, *runs):
    path = tmp_path / "report.html"
    assert main([*map(str, runs), "--out", str(path)]) == 0
    return path


def test_one_run_is_shown_with_all_of_its_figures(tmp_path, write_evaluated):
    text = written(tmp_path, write_evaluated("plain")).read_text(encoding="utf-8")
    page = Page(text)
    titles = ["Accuracy by device", "Log loss by device", "Log loss by class and device", "Confusion matrix",
               "Reliability diagram", "Loss during training", "Size by layer and bit width", "8-bit weights by layer"]
    assert all(title in page.text for title in titles)
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == len(titles) + 1  # and the spectrogram of the only recording that is there
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert page.count("table") == len(titles)
    assert "<small>" not in text and "a <small> system" in page.text
    assert "plain/seed0 on tiny" in page.text and "demo data" not in page.text.casefold()
    assert "true scene: audio/park-oslo-2-1-b.wav." in page.text
    assert len(text) < 3e6

    # it asks for nothing outside of it
    assert page.count("script") == page.count("link") == 0
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:", "#")), (tag, name, value[:50])
    sounds = [attributes["src"] for tag, attributes in page.elements if tag == "audio"]
    assert len(sounds) == 1 and sounds[0].startswith(("data:audio/mpeg;base64,", "data:audio/ogg;base64,"))


@pytest.fixture
def undrawn(monkeypatch):
    """Drawings are empty, which saves most of the time of a report."""
    monkeypatch.setattr(figures, "_svg", lambda figure, title: "")


def test_runs_are_shown_side_by_side(tmp_path, write_evaluated, undrawn):
    runs = [write_evaluated("plain"), write_evaluated("plain", 1),
            write_evaluated("other", config={"system": "plain", "training": {"epochs": 30}})]
    page = Page(written(tmp_path, *runs).read_text(encoding="utf-8"))
    assert "3 runs on tiny" in page.text
    for run in ("plain/seed0", "plain/seed1", "other/seed0"):
        assert f"Calibration: {run}" in page.text
    assert page.text.count("Accuracy by device") == 1
    assert ("plain, mean ± standard deviation of 2 runs (seeds 0, 1): accuracy 69.4 ± 0.0, log loss 5.199 ± 0.000. "
            "plain/seed0 and other/seed0 differ in training.epochs=100 against training.epochs=30.") in page.text


@pytest.mark.parametrize(("config", "words"), [
    ({"training": {"epochs": 30}}, "differ in training.epochs=100 against training.epochs=30."),
    ({"compression": {"enabled": True}}, "differ in compression.enabled=false against compression.enabled=true."),
    ({"seed": 0}, "have the same settings and seed."),
])
def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(write_evaluated, config, words):
    runs = [Run(write_evaluated("plain")), Run(write_evaluated("plain", 1, config=config))]
    assert sections.compare_runs(runs, ["one", "other"]) == f" one and other {words}"


@pytest.mark.parametrize(("data", "config", "expected"), [
    ({}, {}, ["baseline of the challenge 47.7 %; paper 58.9 %", "baseline of the challenge 1.473"]),
    ({}, {"training": {"epochs": 60}}, ["baseline of the challenge 47.7 %; paper 58.9 % with another training.epochs",
                                        "baseline of the challenge 1.473"]),
    ({}, {"system": "mine"}, ["baseline of the challenge 47.7 %", "baseline of the challenge 1.473"]),
    ({"clips": 2970}, {}, None),
    ({"demo": True}, {}, None),
    ({"labels": LABELS[1:]}, {}, None),
    ({"devices": ["a", "b", "c"]}, {}, None),
])
def test_published_figures_are_next_to_the_data_that_they_are_of(write_evaluated, data, config, expected):
    """58.9 % is published of the system bcresnet_asc_1, without ResNorm."""
    config = {"system": "bcresnet_asc_1", "model": {"residual_norm": "none"}, **config}
    run = Run(write_evaluated("plain", config=config))
    record = {**run.read("evaluation"), "labels": LABELS, "devices": DEVICES, **data}
    record["data"] = {"name": "any", "demo": False, "clips": 2968, **data}
    cards = report.headline(run, "plain", record, None)["cards"]
    on_tau = " (TAU Urban Acoustic Scenes 2020 Mobile)"
    assert [card["others"] for card in cards[:2]] == ([words + on_tau for words in expected] if expected else ["", ""])


HOSTILE = {
    "bus": "<script>alert(1)</script>",
    "park": '$\\frac{1}{$ " onload="alert(1)',
    "tram": "\u202ema\u2066rt\x1b[2J</svg></title></style><img src=x onerror=alert(1)>",
    "a": "<img src=x onerror=alert(1)>",
    "b": "' onmouseover='alert(1)' \"",
    "s1": "$s_1$",
    "s4": "all seen",  # also the name of a group
    "tiny": "-->]]><iframe src=//x>\x00\x9b",
    RECORDING: "audio/<b onclick=alert(1)>$x_1$ 'a' \"b\" \u202e\x1b[2J&amp;.wav",
}


def test_hostile_names_are_shown_as_text(tmp_path, write_evaluated):
    """The page has the elements and attributes of one with harmless names, and all names as text."""
    system = "_<svg onload=alert(1)>$"
    plain = Page(written(tmp_path, write_evaluated("plain"), write_evaluated("other")).read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = written(tmp_path, *(write_evaluated(f"{system}{number}", names=HOSTILE, config={"system": "plain"})
                                   for number in range(2))).read_text(encoding="utf-8")
    hostile = Page(text)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    known = {(tag, name) for tag, attributes in plain.elements for name in (None, *attributes)}
    assert {(tag, name) for tag, attributes in hostile.elements for name in (None, *attributes)} <= known
    assert len(hostile.elements) == len(plain.elements)
    escapes = {"\u202e": r"\u202e", "\u2066": r"\u2066", "\x1b": r"\x1b", "\x00": r"\x00", "\x9b": r"\x9b"}
    for name in (*HOSTILE.values(), f"{system}0/seed0", f"{system}1/seed0"):
        assert name.translate(str.maketrans(escapes)) in hostile.text
    # in the drawings, too: rows of the devices, in which a device is no group, and the legend of the runs
    drawn = hostile.text[hostile.text.index("Accuracy by device"):hostile.text.index("Numbers")]
    for name in (HOSTILE["a"], HOSTILE["b"], HOSTILE["s1"], "all seen", "all unseen", f"{system}0/seed0"):
        assert any(text.startswith(name[:20]) for text in map(str.strip, drawn.split("\n")))
    policy, = [attributes["content"] for tag, attributes in hostile.elements
               if attributes.get("http-equiv") == "Content-Security-Policy"]
    allowed = dict(part.split(maxsplit=1) for part in policy.split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == "'none'" and "script-src" not in allowed


def test_a_device_with_the_name_of_a_group_has_its_own_score(write_evaluated, undrawn):
    run = Run(write_evaluated("plain", names={"a": "all seen"}))  # 75 %; the group of a and b has 50 %
    rows = sections.scores_by_device({"plain": run.read("evaluation")}, {"all seen", "b"}).figures[0].rows
    assert [(row[1], row[2]) for row in rows[1:4]] == [("all seen", "75.0"), ("b", "0.0"), ("all seen", "50.0")]


@pytest.mark.parametrize(("content", "words"), [
    (None, "it is not there"),
    (b"RIFF", "The recording is left out: "),
    (np.full(16000, np.nan, np.float32), "not all of its samples are numbers"),
    (np.zeros(0, np.float32), "it is empty"),
    (np.full(16000, 1e15, np.float32), ""),  # ends the MP3 encoder, if it is not clipped
    (np.zeros(16000, np.float32), ""),
    (np.zeros(3_600_000, np.float32), ""),
])
def test_one_recording_does_not_end_a_report(tmp_path, write_evaluated, content, words):
    run = Run(write_evaluated("plain", config={"features": {"clip_seconds": 1.0}}))
    path = tmp_path / "data" / RECORDING
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        soundfile.write(path, content, 16000, format="WAV", subtype="FLOAT")
    drawing, audio, note = read_media(run, RECORDING)
    assert words in note and bool(note) is bool(words)
    assert (not audio and not drawing) if words else audio.startswith("data:audio/") and len(audio) < 50_000
    if not words:
        heard, rate = soundfile.read(io.BytesIO(base64.b64decode(audio.partition("base64,")[2])))
        assert 1.0 <= len(heard) / rate < 1.2  # an encoder pads its blocks


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path, write_evaluated):
    run = Run(write_evaluated("plain"))
    (tmp_path / "data" / RECORDING).unlink()
    os.mkfifo(tmp_path / "data" / RECORDING)
    assert "it is not there" in read_media(run, RECORDING)[2]


@pytest.mark.parametrize("filename", ["../secret.wav", "{}/secret.wav", "audio/../../secret.wav", r"C:\secret.wav"])
def test_a_recording_outside_of_the_data_set_is_not_shown(tmp_path, write_evaluated, filename):
    soundfile.write(tmp_path / "secret.wav", np.zeros(1000), 16000)
    drawing, audio, note = read_media(Run(write_evaluated("plain")), filename.format(tmp_path))
    assert "its name leaves the folder of the data set" in note and not drawing and not audio


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"a,b\n1,2\n", b"epoch,learning_rate,train_loss\n1,2,x\n",
                                     b"epoch,learning_rate,train_loss,validation_log_loss,validation_accuracy\n1,2,,3,4"])
def test_damaged_curves_are_left_out(write_evaluated, content):
    folder = write_evaluated("plain")
    (folder / "train" / "history.csv").write_bytes(content)
    section = sections.learning_curves(Run(folder))
    assert "history.csv: damaged (" in section.text and not section.figures


def _without(*keys):
    def spoil(record):
        for key in keys[:-1]:
            record = record[key]
        del record[keys[-1]]
    return spoil


def _with(value, *keys):
    def spoil(record):
        for key in keys[:-1]:
            record = record[key]
        record[keys[-1]] = value
    return spoil


@pytest.mark.parametrize(("name", "spoil", "message"), [
    ("evaluation", _without("calibration"), "calibration: Field required"),
    ("evaluation", _without("intervals", "overall"), "intervals.overall: Field required"),
    ("evaluation", _without("device_wise", "s4"), "device_wise: must have the keys a, b, s1, s4"),
    ("evaluation", _without("confusion", "bus", "park"), "confusion.bus: must have the keys bus, park, tram"),
    ("evaluation", _without("class_device_wise", "tram"), "class_device_wise: must have"),
    ("evaluation", _with("x", "calibration", "bins", 0, "confidence"), "calibration.bins.0.confidence: "),
    ("evaluation", _with([], "labels"), "labels: List should have at least 1 item"),
    ("evaluation", _with(["a"] * 9, "intervals", "overall", "accuracy"), "intervals.overall.accuracy"),
    ("evaluation", _with(-1, "confusion", "bus", "bus"), "confusion.bus.bus: "),
    ("evaluation", _with(float("inf"), "highest_losses", 0, "logloss"), "highest_losses.0.logloss: .*finite"),
    ("data", _without("by_device", "train"), "by_device.train: Field required"),
    ("complexity", _with("2021", "limit_policy"), "limit_policy: String should match"),
    ("complexity", _with(10 ** 400, "tensors", 0, "bytes"), "tensors.0.bytes: "),
    ("complexity", _with(None, "policies", "paper", "KiB"), "policies.paper.KiB: "),
])
def test_damaged_records_are_told_in_one_line(tmp_path, write_evaluated, capsys, name, spoil, message):
    path = write_evaluated("plain") / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    spoil(record)
    path.write_text(json.dumps(record), encoding="utf-8")
    assert run_command(lambda: main([str(path.parent), "--out", str(tmp_path / "x.html")])) == 2
    said = capsys.readouterr().err
    assert re.search(f"{name}.json: damaged, or of an earlier version: {message}.*make it again with: ", said)
    assert said.count("\n") == 1 and len(said) < 800 and not (tmp_path / "x.html").exists()


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path, write_evaluated, undrawn):
    one = write_evaluated("plain")
    other = shutil.copytree(one, tmp_path / "others" / "plain" / "seed0")
    page = Page(written(tmp_path, one, other).read_text(encoding="utf-8"))
    assert f"Calibration: {one.as_posix()}" in page.text and f"Calibration: {other.as_posix()}" in page.text


def test_temperature_scaling_and_demo_data_are_told(tmp_path, write_evaluated, reference, predictions, undrawn):
    before = calibration.before_scaling(reference, predictions, 1.5)
    text = written(tmp_path, write_evaluated("plain", demo=True, before_scaling=before)).read_text(encoding="utf-8")
    assert "divided by the temperature 1.500" in text and "after scaling" in text
    assert "<title>plain/seed0 on tiny (demo data)</title>" in text


@pytest.mark.parametrize("filename", ["\0.wav", "\ud800.wav", "x" * 5000, "."])
def test_impossible_file_names_do_not_end_a_report(tmp_path, write_evaluated, undrawn, filename):
    path = write_evaluated("plain") / "evaluation.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["highest_losses"][0]["filename"] = filename
    path.write_text(json.dumps(record), encoding="utf-8")
    page = Page(written(tmp_path, path.parent).read_text(encoding="utf-8"))
    assert page.text.count("The recording is left out: ") == 5 and "data:audio" not in page.text


@pytest.mark.parametrize("name", ["runs/plain/seed0/evaluation.json", "runs/plain/seed0/train/history.csv",
                                  f"data/{RECORDING}", "runs"])
def test_a_report_never_replaces_an_input(tmp_path, write_evaluated, name):
    folder = write_evaluated("plain")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="^--out .*: is "):
        main([str(folder), "--out", str(tmp_path / name)])
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_runs_on_different_data_are_refused(tmp_path, write_evaluated):
    plain = write_evaluated("plain")
    other = write_evaluated("other", data={"name": "another", "demo": False, "clips": 8})
    with pytest.raises(InputError, match="a report compares runs on the same data"):
        main([str(plain), str(other), "--out", str(tmp_path / "x.html")])
    with pytest.raises(InputError, match="a run is given twice"):
        main([str(plain), f"{plain}/../seed0", "--out", str(tmp_path / "x.html")])


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize(("width", "names"), [(1280, None), (400, None), (1280, HOSTILE)])
def test_a_browser_shows_it_without_errors(tmp_path, write_evaluated, width, names):
    """Nor does it refuse anything that the page asks for, such as a script."""
    runs = write_evaluated("plain", names=names), write_evaluated("other", names=names)
    path, image = written(tmp_path, *runs), tmp_path / "page.png"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", f"--window-size={width},4000", f"--screenshot={image}", path.as_uri()],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and image.stat().st_size > 50_000
    assert not re.search(r"CONSOLE|ERR_", done.stderr)
