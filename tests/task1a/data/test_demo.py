import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import soundfile
from dcase_util.datasets import TAUUrbanAcousticScenes_2020_Mobile_DevelopmentSet
from scipy.signal import welch

from task1a.data import check, demo, tau_layout
from task1a.data.dataset import Dataset

DEVICES = ("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6")
LABELS = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian",
          "street_traffic", "tram")
TINY = demo.DemoSize(train_locations=2, clips_per_location=1, parallel_every=5, test_locations=1,
                     evaluation_locations=1, clip_seconds=0.3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    demo.build(root, TINY)
    return root


def digests(root):
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.rglob("*")) if path.is_file() and path.name != ".demo.lock"}


def test_shipped_size_has_the_imbalance_of_the_challenge():
    # 360 device a clips; each other seen device records every 14th of them, starting with one of its own
    clips = demo.plan(demo.DemoSize())
    counts = {split: part.source_label.value_counts().to_dict() for split, part in clips.groupby("split")}
    assert counts["train"] == {"a": 360, **dict.fromkeys(("b", "c", "s1", "s2", "s3"), 26)}
    assert counts["test"] == dict.fromkeys(DEVICES, 60)
    assert counts["unused"] == {"s4": 9, "s5": 9, "s6": 8}
    assert sum(counts["evaluation"].values()) == 60 and set(counts["evaluation"]) == {*DEVICES, "d", "s7"}


def test_locations_parallel_clips_and_scenes_of_the_plan():
    clips = demo.plan(demo.DemoSize())
    clips = clips[clips.split != "unused"]
    assert clips.groupby("split").identifier.nunique().to_dict() == {"train": 120, "test": 60, "evaluation": 20}
    assert clips.identifier.nunique() == 200  # none of them in two splits
    train = clips[clips.split == "train"]
    assert train.identifier.str.split("-").str[0].nunique() == 5
    assert set(train.sound) == set(train.sound[train.source_label == "a"])
    assert (clips.groupby("split").scene_label.unique().map(sorted).map(tuple) == LABELS).all()


def test_exactly_these_files_are_written(tiny):
    assert {path.name for path in tiny.iterdir()} == {
        ".demo.lock", "demo-development", "demo-evaluation", "demo-evaluation-reference.csv"}
    for name, tables, clips in (("demo-development", ["fold1_evaluate.csv", "fold1_test.csv", "fold1_train.csv"], 134),
                                ("demo-evaluation", ["fold1_test.csv"], 30)):
        root = tiny / name
        assert sorted(path.name for path in (root / "evaluation_setup").iterdir()) == tables
        assert len(list((root / "audio").iterdir())) == clips  # 20 a + 5 x 4 train, 9 x 10 test, 4 unused; 10 x 3
        lines = (root / "DEMO_DATA.txt").read_text().splitlines()
        assert len(lines) == 2 and lines[0].startswith("Synthesised demo data")
    assert b"\r" not in (tiny / "demo-development" / "meta.csv").read_bytes()


def test_tables_agree_with_the_names_of_the_clips_and_with_dcase_util(tiny):
    clips = tau_layout.read_development(tiny / "demo-development")
    assert tuple(sorted(clips.scene_label.unique())) == LABELS
    for clip in clips.itertuples():
        scene, city, location, _, device = clip.filename.removeprefix("audio/").removesuffix(".wav").split("-")
        assert (clip.scene_label, clip.identifier, clip.device) == (scene, f"{city}-{location}", device)

    official = TAUUrbanAcousticScenes_2020_Mobile_DevelopmentSet(
        "demo-development", str(tiny), included_content_types=["meta"])
    official.load()
    for split, items in (("train", official.train(1)), ("test", official.eval(1))):
        expected = [(item.scene_label, item.identifier, item.source_label) for item in items]
        part = clips.loc[clips.split == split, ["scene_label", "identifier", "device"]]
        assert list(part.itertuples(index=False, name=None)) == expected


def test_evaluation_labels_lie_apart_and_cannot_be_guessed_from_the_order(tiny):
    reference = pd.read_csv(tiny / "demo-evaluation-reference.csv", sep="\t")
    assert list(reference.columns) == ["filename", "scene_label", "source_label"]
    assert reference.filename.tolist() == [f"audio/{number}.wav" for number in range(30)]
    assert tau_layout.read_evaluation(tiny / "demo-evaluation").filename.tolist() == reference.filename.tolist()
    assert reference.scene_label.value_counts().tolist() == [3] * 10
    assert (reference.scene_label == reference.scene_label.shift()).sum() < 10  # sorted by scene it would be 20
    assert {"d", "s7"} <= set(reference.source_label)


def test_audio_is_real_and_neither_silent_nor_clipped(tiny):
    paths = sorted(tiny.glob("*/audio/*.wav"))
    for path in paths:
        info = soundfile.info(str(path))
        assert (info.samplerate, info.subtype, info.channels, info.frames) == (16000, "PCM_16", 1, 4800)
    samples = np.concatenate([soundfile.read(path)[0] for path in paths[::7]])
    assert 0.002 < np.sqrt(np.mean(samples**2)) < 0.3 and np.abs(samples).max() < 0.999


def test_passes_the_check_and_is_marked_as_demo_data(tiny):
    report = check.check(Dataset(tiny / "demo-development", tiny / "demo-evaluation"))
    assert report.problems == [] and report.facts["demo"] is True
    assert report.facts["clips"] == {"meta": 134, "train": 40, "test": 90, "unused": 4, "evaluation": 30}
    assert "(synthesised demo data)" in check.format_report(report)


def test_same_bytes_whatever_the_number_of_workers(tiny, tmp_path):
    demo.build(tmp_path, TINY, workers=1)
    assert digests(tmp_path) == digests(tiny) and len(digests(tiny)) == 164 + 8  # clips; tables and markers


def test_same_samples_as_ever():
    # where this fails because the synthesis was changed on purpose, raise demo.VERSION, too
    sound = demo.synthesise("metro_station", "lyon-1000", "metro_station-lyon-1000-40000", 0.5)
    heard = demo.record(sound, demo.DEVICES["s2"])
    assert hashlib.sha256(np.rint(heard * 2**15).astype("<i2").tobytes()).hexdigest()[:16] == "3820aac2858fa340"


@pytest.mark.parametrize("name", list(demo.DEVICES))
def test_device_has_its_response_at_every_octave(name):
    noise = 1e-3 * np.random.default_rng(0).standard_normal(60 * 16000)  # too soft for any compressor
    hz, before = welch(noise, 16000, nperseg=16384)
    after = welch(demo.record(noise, demo.DEVICES[name]), 16000, nperseg=16384)[1]
    measured = 10 * np.log10(np.interp(demo.OCTAVES, hz, after) / np.interp(demo.OCTAVES, hz, before))
    assert measured == pytest.approx(demo.DEVICES[name].response, abs=0.5)


def test_devices_differ_from_each_other_by_decibels():
    responses = np.array([device.response for device in demo.DEVICES.values()])
    apart = np.abs(responses[:, None] - responses[None]).max(-1) + 100 * np.eye(len(responses))
    assert apart.min() >= 3


@pytest.mark.parametrize("name", ["a", "s1", "s4", "s6"])
def test_compressor_divides_decibels_above_its_threshold(name):
    device = demo.DEVICES[name]
    tone = np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    soft, loud = (20 * np.log10(np.std(demo.record(gain * tone, device)[8000:])) for gain in (0.05, 0.5))
    assert loud - soft == pytest.approx(20 / device.ratio, abs=0.2)


def test_a_complete_set_is_kept(tiny, monkeypatch):
    monkeypatch.setattr(demo, "_write", None)
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*.wav")}
    assert demo.build(tiny, TINY) == (tiny / "demo-development", tiny / "demo-evaluation")
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*.wav")} == before


def test_a_set_of_another_size_or_version_is_built_anew(tmp_path, monkeypatch):
    minimal = demo.DemoSize(1, 1, 50, 1, 0, 0.05)
    development, _ = demo.build(tmp_path, demo.DemoSize(1, 1, 50, 1, 0, 0.06))
    demo.build(tmp_path, minimal)
    assert {soundfile.info(str(path)).duration for path in (development / "audio").iterdir()} == {0.05}
    monkeypatch.setattr(demo, "VERSION", 0)
    (development / "meta.csv").write_text("of an older version")
    demo.build(tmp_path, minimal)
    assert len(tau_layout.read_development(development)) == 10 + 5 + 1 + 90


@pytest.mark.parametrize("dying", ["soundfile.write", "os.replace"])
def test_a_killed_build_is_noticed_and_built_anew(tiny, tmp_path, dying):
    # the process ends at the 11th clip, or between moving the two sets to where they belong
    module, function = dying.split(".")
    code = f"""
import os, pathlib, {module}
from task1a.data import demo
original, calls = {dying}, []
def dies(*args, **kwargs):
    if "{function}" == "write" or "demo-" in pathlib.Path(args[1]).name:
        calls.append(args)
    if len(calls) > {10 if function == "write" else 1}:
        os._exit(9)
    return original(*args, **kwargs)
{dying} = dies
demo.build(pathlib.Path({str(tmp_path)!r}), demo.{TINY!r}, workers=1)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    left = digests(tmp_path)
    assert left and left != digests(tiny)
    demo.build(tmp_path, TINY)
    assert digests(tmp_path) == digests(tiny)


def test_builds_at_the_same_time_make_one_set(tmp_path, monkeypatch):
    written = []
    original = demo._write
    monkeypatch.setattr(demo, "_write", lambda *args: (written.append(args), original(*args)))
    minimal = demo.DemoSize(1, 1, 50, 1, 1, 0.05)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: demo.build(tmp_path, minimal, 1), range(3)))
    assert len(written) == 1
