"""The report as a reader and a browser see it."""
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from evaluation import metrics, report
from task1a.errors import InputError, run_command

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
def write_evaluated(tmp_path, reference, predictions):
    """Writes a run with all of its records, and one recording of its test split."""
    reference = reference.assign(identifier=[f"oslo-{number}" for number in range(8)])
    (tmp_path / "data" / "audio").mkdir(parents=True)
    tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    soundfile.write(tmp_path / "data" / "audio" / "park-oslo-2-1-b.wav", tone, 16000)

    def write(system, seed=0, demo=False, **more):
        folder = tmp_path / "runs" / system / f"seed{seed}"
        (folder / "train").mkdir(parents=True)
        results = metrics.evaluate(reference, predictions, seen_devices={"a", "b"})
        record = {"data": {"name": "tiny", "demo": demo, "clips": 8}, **results, "left_out": [], **more}
        tensors = [{"name": "stem.0.weight", "bits": 8, "values": 100, "non_zero": 40, "bytes": 40},
                   {"name": "head.bias", "bits": 16, "values": 10, "non_zero": 10, "bytes": 20}]
        counted = {"policies": {"dcase2021": {"bytes": 60, "kB": 0.06, "KiB": 0.0586}}, "limit_policy": "dcase2021",
                   "limit_bytes": 131072, "warning_bytes": 128000, "within_limit": True, "tensors": tensors}
        for name, content in (("evaluation", record), ("complexity", counted),
                              ("data", {"by_device": {"train": {"a": 3, "b": 2}}})):
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        config = {"system": system, "description": "a <small> system", "data": {"root": str(tmp_path / "data")}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        pd.DataFrame({"epoch": [1, 2], "learning_rate": [0.1, 0.05], "train_loss": [2.0, 1.5],
                      "validation_accuracy": [20.0, 30.0], "validation_log_loss": [2.1, 1.9], "seconds": [1, 1],
                      }).to_csv(folder / "train" / "history.csv", index=False)
        return folder

    return write


def written(tmp_path, *runs):
    path = tmp_path / "report.html"
    assert report.main([*map(str, runs), "--out", str(path)]) == 0
    return path


def test_one_run_is_shown_with_all_of_its_figures(tmp_path, write_evaluated):
    text = written(tmp_path, write_evaluated("plain")).read_text(encoding="utf-8")
    page = Page(text)
    figures = ["Accuracy by device", "Log loss by device", "Log loss by class and device", "Confusion matrix",
               "Reliability diagram", "Loss during training", "Size by layer and bit width", "8-bit weights by layer"]
    assert all(title in page.text for title in figures)
    drawings = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawings) == len(figures) + 1  # and the spectrogram of the only recording that is there
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    assert page.count("table") == len(figures)
    assert "<small>" not in text and "a <small> system" in page.text
    assert "plain/seed0 on tiny" in page.text and "demo data" not in page.text.casefold()
    assert "true scene: audio/park-oslo-2-1-b.wav." in page.text
    assert len(text) < 3e6


def test_the_page_asks_for_nothing_outside_of_it(tmp_path, write_evaluated):
    page = Page(written(tmp_path, write_evaluated("plain")).read_text(encoding="utf-8"))
    assert page.count("script") == page.count("link") == 0
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href"):
                assert value.startswith(("data:", "#")), (tag, name, value[:50])
    sounds = [attributes["src"] for tag, attributes in page.elements if tag == "audio"]
    assert len(sounds) == 1 and sounds[0].startswith(("data:audio/mpeg;base64,", "data:audio/ogg;base64,"))


def test_runs_are_shown_side_by_side(tmp_path, write_evaluated):
    runs = [write_evaluated("plain"), write_evaluated("plain", 1), write_evaluated("other")]
    page = Page(written(tmp_path, *runs).read_text(encoding="utf-8"))
    assert "3 runs on tiny" in page.text
    for run in ("plain/seed0", "plain/seed1", "other/seed0"):
        assert f"Calibration: {run}" in page.text
    assert page.text.count("Accuracy by device") == 1
    assert "plain, mean ± standard deviation of 2 runs: accuracy 69.4 ± 0.0, log loss 5.199 ± 0.000." in page.text


def test_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path, write_evaluated):
    one = write_evaluated("plain")
    other = shutil.copytree(one, tmp_path / "others" / "plain" / "seed0")
    page = Page(written(tmp_path, one, other).read_text(encoding="utf-8"))
    assert f"Calibration: {one.as_posix()}" in page.text and f"Calibration: {other.as_posix()}" in page.text


def test_temperature_scaling_is_shown_before_and_after(tmp_path, write_evaluated, reference, predictions):
    before = metrics.before_scaling(reference, predictions, 1.5)
    page = Page(written(tmp_path, write_evaluated("plain", before_scaling=before)).read_text(encoding="utf-8"))
    assert "divided by the temperature 1.500" in page.text and "after scaling" in page.text


def test_demo_data_is_in_the_title(tmp_path, write_evaluated):
    text = written(tmp_path, write_evaluated("plain", demo=True)).read_text(encoding="utf-8")
    assert "<title>plain/seed0 on tiny (demo data)</title>" in text


def test_what_cannot_be_shown_is_told(tmp_path, write_evaluated, capsys):
    plain = write_evaluated("plain")
    other = write_evaluated("other", data={"name": "another", "demo": False, "clips": 8})
    with pytest.raises(InputError, match="a report compares runs on the same data"):
        report.main([str(plain), str(other), "--out", str(tmp_path / "x.html")])
    record = json.loads((plain / "evaluation.json").read_text(encoding="utf-8"))
    del record["calibration"]
    (plain / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    assert run_command(lambda: report.main([str(plain), "--out", str(tmp_path / "x.html")])) == 2
    assert "--stage evaluate --force" in capsys.readouterr().err and not (tmp_path / "x.html").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_errors(tmp_path, write_evaluated, width):
    path, image = written(tmp_path, write_evaluated("plain"), write_evaluated("other")), tmp_path / "page.png"
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
         "--enable-logging=stderr", f"--window-size={width},4000", f"--screenshot={image}", path.as_uri()],
        capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and image.stat().st_size > 50_000
    assert not re.search(r"CONSOLE|ERR_", done.stderr)
