"""Data sets of any recordings: what is written, and what a user is told about typical mistakes."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from task1a.data import check
from task1a.data.dataset import Dataset
from task1a.data.prepare import Options, main, prepare, split_locations
from task1a.errors import InputError


def record(path: Path, seconds: float = 1.0, rate: int = 8000, channels: int = 1) -> np.ndarray:
    """A recording whose samples tell where they were."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = (np.arange(round(seconds * rate) * channels) % 30_000).reshape(-1, channels) / 2 ** 15
    soundfile.write(path, samples, rate, "PCM_16")
    return samples


@pytest.fixture
def folder(tmp_path) -> Path:
    for scene in ("park", "bus"):
        for number in range(4):
            record(tmp_path / "in" / scene / f"{number}.wav")
    record(tmp_path / "in" / "park" / "lake" / "a.wav")
    record(tmp_path / "in" / "park" / "lake" / "b.flac", channels=2)
    (tmp_path / "in" / "notes.txt").write_text("x")
    return tmp_path / "in"


def test_folder_becomes_a_data_set_that_passes_the_check(folder, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / "out"), "--evaluation", "0.2"]) == 0
    assert "next: task1a run --system" in capsys.readouterr().out
    dataset = Dataset(tmp_path / "out" / "development", tmp_path / "out" / "evaluation")
    assert check.check(dataset, False, 8000, 1.0).problems == []
    parts = [dataset.split(name) for name in ("train", "test", "evaluation")]
    assert sum(map(len, parts)) == 10 and set(parts[0].scene_label) == set(parts[1].scene_label) == {"park", "bus"}
    lake = dataset.clips[dataset.clips.filename.str.contains("flac")].identifier
    if len(lake):  # a location is in one split
        assert dataset.clips[dataset.clips.identifier.isin(lake)].split.nunique() == 1
    names = {path.name for path in (tmp_path / "out" / "evaluation" / "audio").iterdir()}
    reference = pd.read_csv(tmp_path / "out" / "evaluation-reference.csv", sep="\t")
    assert {f"audio/{name}" for name in names} == set(reference.filename) and all(Path(n).stem.isdigit() for n in names)


def test_same_seed_gives_the_same_data_set(folder, tmp_path):
    tables = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepare(folder, tmp_path / name, Options(seed=seed))
        tables.append((tmp_path / name / "development" / "evaluation_setup" / "fold1_test.csv").read_text())
    assert tables[0] == tables[1] != tables[2]


@pytest.mark.parametrize("seconds, lengths", [(1.4, [1.4]), (1.6, [1.0, 0.6]), (2.4, [1.0, 1.0]), (3.0, [1.0] * 3)])
def test_long_recordings_are_cut(folder, tmp_path, seconds, lengths):
    samples = record(folder / "bus" / "long.wav", seconds, channels=2)
    clips = prepare(folder, tmp_path / "out", Options(clip_seconds=1.0))
    own = clips[clips.source == folder / "bus" / "long.wav"]
    assert own.identifier.nunique() == own.split.nunique() == 1
    parts = [soundfile.read(tmp_path / "out" / "development" / name)[0] for name in own.filename]
    assert [len(part) / 8000 for part in parts] == lengths
    assert np.array_equal(np.concatenate(parts), samples[:round(sum(lengths) * 8000)])


def test_table_gives_devices_and_locations(folder, tmp_path):
    rows = ["file;label;device;location"]
    for scene in ("park", "bus"):
        rows += [f"{scene}/{number}.wav;{scene};{'b' if number else ''};{scene}{number // 2}" for number in range(4)]
    (folder / "table.csv").write_text("\n".join(rows), encoding="utf-8")
    clips = prepare(folder / "table.csv", tmp_path / "out", Options(test=0.5))
    assert clips.groupby("identifier").split.nunique().max() == 1 and clips.identifier.nunique() == 4
    assert clips.device.tolist() == ["a", "b", "b", "b"] * 2
    assert clips.groupby(["scene_label", "split"]).size().tolist() == [2, 2, 2, 2]


def test_fractions_are_of_the_locations_of_every_scene():
    recordings = pd.DataFrame({"label": ["x"] * 40 + ["y"] * 10,
                               "location": [f"x{number // 2}" for number in range(40)] + [f"y{n}" for n in range(10)]})
    recordings["split"] = split_locations(recordings, Options(test=0.3, evaluation=0.1))
    counts = recordings.groupby(["label", "split"]).location.nunique()
    assert counts["x"].to_dict() == {"evaluation": 2, "test": 6, "train": 12}
    assert counts["y"].to_dict() == {"evaluation": 1, "test": 3, "train": 6}


def spoil(folder: Path, mistake: str) -> Path:
    if mistake == "no labels":
        record(folder / "loose.wav")
    elif mistake == "one scene":
        return folder / "park"
    elif mistake == "one recording":
        record(folder / "tram" / "only.wav")
    elif mistake == "unreadable":
        (folder / "bus" / "broken.wav").write_bytes(b"RIFF")
    elif mistake == "case":
        record(folder / "Park" / "x.wav")
    elif mistake == "no table":
        return folder / "nowhere.csv"
    elif mistake == "missing file":
        (folder / "t.csv").write_text("file,label\nbus/0.wav,bus\nbus/9.wav,bus\n")
        return folder / "t.csv"
    elif mistake == "columns":
        (folder / "t.csv").write_text("name,label\nbus/0.wav,bus\n")
        return folder / "t.csv"
    return folder


@pytest.mark.parametrize("mistake, message", [
    ("no labels", "1 recording without a scene; put the recordings of every scene into a folder"),
    ("one scene", "without a scene"),
    ("one recording", "the scene tram has 1 location and needs 2, one for every split"),
    ("unreadable", "1 recording cannot be read, see above; mend or remove them"),
    ("case", "'Park' and 'park' differ in case"),
    ("no table", "no such folder or table"),
    ("missing file", "line 3: .*no such recording"),
    ("columns", "no column 'file'; expected file,label"),
])
def test_mistakes_leave_nothing_behind(folder, tmp_path, mistake, message):
    source = spoil(folder, mistake)
    if mistake == "case" and len({path.name for path in folder.iterdir()} & {"park", "Park"}) < 2:
        pytest.skip("the file system does not tell cases apart")
    with pytest.raises(InputError, match=message):
        main([str(source), str(tmp_path / "out")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


def test_damaged_recordings_are_left_out_on_request(folder, tmp_path, capsys):
    spoil(folder, "unreadable")
    assert main([str(folder), str(tmp_path / "out"), "--skip-damaged"]) == 0
    assert "unreadable: " in capsys.readouterr().err
    with pytest.raises(InputError, match="out: exists already"):
        main([str(folder), str(tmp_path / "out")])
