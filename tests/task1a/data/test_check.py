import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from task1a.data import check
from task1a.data.dataset import Dataset
from task1a.errors import InputError

A_CLIP = "audio/bus-lyon-1-10-a.wav"


def test_facts_of_a_sound_data_set(development, evaluation):
    report = check.check(Dataset(development, evaluation))
    assert report.facts == {
        "name": "small-development", "demo": False, "labels": ["bus", "park"], "devices": ["a", "b", "s4"],
        "clips": {"meta": 8, "train": 4, "test": 3, "unused": 1, "evaluation": 2},
        "by_device": {"train": {"a": 3, "b": 1}, "test": {"a": 2, "s4": 1}, "unused": {"a": 1}},
        "locations": 6, "cities": 2, "damaged": [],
        "formats": {"development": {"44.1 kHz, 24 bit, mono, 0.1 s": 8},
                    "evaluation": {"44.1 kHz, 24 bit, mono, 0.1 s": 2}}}
    assert report.problems == []
    assert report.notes[0] == "unseen devices, in the test split only: s4"
    assert report.notes[1].startswith("unused clips, in neither split: 1; list them in fold1_train.csv, ")
    assert len(report.notes) == 2


def test_printed_report(development, evaluation):
    lines = check.format_report(check.check(Dataset(development, evaluation))).splitlines()
    assert lines[:9] == [
        "small-development: 8 clips of 2 scenes, 6 locations in 2 cities",
        "  split   clips      a      b     s4",
        "  train       4      3      1      0",
        "  test        3      2      0      1",
        "  unused      1      1      0      0",
        "  evaluation set: 2 clips",
        "  development audio: 8 x 44.1 kHz, 24 bit, mono, 0.1 s",
        "  evaluation audio: 2 x 44.1 kHz, 24 bit, mono, 0.1 s",
        "note: unseen devices, in the test split only: s4"]


def test_without_an_evaluation_set(development):
    report = check.check(Dataset(development))
    assert report.problems == [] and report.facts["clips"]["evaluation"] == 0
    assert any("nothing to submit" in note for note in report.notes)


@pytest.mark.parametrize(("listed", "there", "shown"), [
    ("7.wav", "audio/7.wav", "'audio/7.wav'"),
    ("audio/Z\u00fcrich.wav", "audio/Zu\u0308rich.wav", r"'audio/Zu\u0308rich.wav'"),
    ("audio/X.wav", "audio/x.WAV", "'audio/x.WAV'")])
def test_missing_file_of_similar_name(development, listed, there, shown):
    (development / A_CLIP).rename(development / there)
    for table in (development / "meta.csv", *(development / "evaluation_setup").iterdir()):
        table.write_text(table.read_text(encoding="utf-8").replace(A_CLIP, listed), encoding="utf-8")
    [problem] = check.check(Dataset(development)).problems
    assert problem.endswith(f"\n    {listed} (there is {shown}; rename it, or correct the tables)")


def test_every_missing_file_is_counted_and_ten_are_named(development, evaluation, edit):
    (development / A_CLIP).unlink()
    names = [f"audio/{n}.wav" for n in range(2, 14)]
    edit(evaluation / "evaluation_setup" / "fold1_test.csv", "audio/1.wav\n", "audio/1.wav\n" + "\n".join(names) + "\n")
    own, others = check.check(Dataset(development, evaluation), skip_damaged=True).problems
    assert own.startswith("missing audio files: 1;") and own.endswith(f"\n    {A_CLIP}")
    first, *cases = others.splitlines()
    assert first.startswith("missing evaluation audio files: 12;")
    assert [case.strip() for case in cases] == [*names[:10], "... and 2 more"]


def test_damaged_files_stop_or_are_left_out_and_listed(development, evaluation):
    os.truncate(development / A_CLIP, 5000)
    (development / "audio/bus-porto-4-13-s4.wav").write_text("not audio")
    (evaluation / "audio/1.wav").write_bytes(b"")
    report = check.check(Dataset(development, evaluation))
    own, others = report.problems
    assert own.startswith("damaged audio files: 2;") and "--skip-damaged" in own
    assert f"{A_CLIP} (truncated: 4,956 of 13,230 bytes of audio)" in own  # the header takes 44 bytes
    assert "audio/bus-porto-4-13-s4.wav (not readable as audio (Format not recog" in own and "audio/1.wav" in others
    assert report.facts["damaged"] == []
    assert report.facts["formats"]["development"] == {"44.1 kHz, 24 bit, mono, 0.1 s": 6}

    report = check.check(Dataset(development, evaluation), skip_damaged=True)
    assert report.problems == []
    assert report.facts["damaged"] == [A_CLIP, "audio/bus-porto-4-13-s4.wav", "audio/1.wav"]
    assert sum("left out" in note for note in report.notes) == 2


def test_unused_clips_are_needed_by_nobody(development, evaluation):
    (development / "audio/park-lyon-6-15-a.wav").unlink()
    report = check.check(Dataset(development, evaluation))
    assert report.problems == [] and report.facts["damaged"] == []
    assert any("missing or damaged among the unused clips: 1;" in note and "park-lyon-6-15-a.wav (no such file)" in note
               for note in report.notes)


def test_overlap_by_file_and_by_location(development, evaluation, edit):
    setup = development / "evaluation_setup"
    edit(setup / "fold1_test.csv", "filename\n", f"filename\n{A_CLIP}\n")
    edit(setup / "fold1_evaluate.csv", "scene_label\n", f"scene_label\n{A_CLIP}\tbus\n")
    report = check.check(Dataset(development, evaluation))
    by_file, by_location = report.problems
    assert by_file == f"clips in both the train and the test split: 1\n    {A_CLIP}"
    assert by_location.startswith("locations in both the train and the test split: 1;")
    assert by_location.endswith("\n    lyon-1 (2 train clips, 1 test clip)")
    assert report.facts["clips"]["train"] == 4 and report.facts["clips"]["test"] == 4


def test_overlap_by_location_alone(development, evaluation, edit):
    edit(development / "meta.csv", "\tporto-4\t", "\tlyon-2\t")
    (problem,) = check.check(Dataset(development, evaluation)).problems
    assert problem.endswith("\n    lyon-2 (1 train clip, 2 test clips)")


def test_a_scene_that_only_one_split_has(development, evaluation, edit):
    for name in ("meta.csv", "evaluation_setup/fold1_train.csv"):
        edit(development / name, "12-a.wav\tpark", "12-a.wav\ttram")
    assert check.check(Dataset(development, evaluation)).problems == [
        "scenes without a readable clip in the test split, which cannot be tested: tram"]


def test_withdrawn_copy_of_the_split_is_a_problem_even_where_all_its_files_are_listed(development, monkeypatch):
    monkeypatch.setattr(check.tau_layout, "older_copy", lambda train, test: f"older copy {train} {test}")
    assert check.check(Dataset(development)).problems == ["older copy 4 3"]


def test_tables_that_cannot_be_read(development, evaluation):
    (evaluation / "evaluation_setup" / "fold1_test.csv").unlink()
    (development / A_CLIP).unlink()
    missing, table = check.check(Dataset(development, evaluation)).problems
    assert "missing audio files" in missing and "fold1_test.csv: no such file" in table
    (development / "meta.csv").unlink()
    with pytest.raises(InputError, match="meta.csv: no such file"):
        check.check(Dataset(development, evaluation))


def test_differing_formats_are_counted_and_noted(development):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (48000, 2))
    soundfile.write(development / A_CLIP, noise, 48000, subtype="PCM_16")
    soundfile.write(development / "audio/park-lyon-2-11-a.wav", noise[:24000], 48000, subtype="PCM_16")
    soundfile.write(development / "audio/park-porto-3-12-a.wav", noise[:, 0], 16000, subtype="FLOAT")
    soundfile.write(development / "audio/park-lyon-5-14-a.wav", noise[:16000, 0], 16000, "PCM_24", format="FLAC")
    report = check.check(Dataset(development))
    assert report.problems == []
    assert list(report.facts["formats"]["development"].items()) == [
        ("44.1 kHz, 24 bit, mono, 0.1 s", 4), ("48 kHz, 16 bit, stereo, 0.5 to 1.0 s", 2),
        ("16 kHz, 24 bit, mono, 1.0 s", 1), ("16 kHz, 32 bit float, mono, 3.0 s", 1)]
    assert any(note.startswith("development set: 4 audio formats") for note in report.notes)


def test_digest_follows_every_table_and_clip(development, evaluation):
    dataset = Dataset(development, evaluation)
    digests = [check.content_digest(dataset), check.content_digest(Dataset(development))]
    assert check.content_digest(dataset) == digests[0]

    clip = (development / A_CLIP).stat()
    os.utime(development / A_CLIP, ns=(clip.st_atime_ns, clip.st_mtime_ns + 1000))
    digests.append(check.content_digest(dataset))
    with open(development / A_CLIP, "ab") as file:
        file.write(b"\0")
    os.utime(development / A_CLIP, ns=(clip.st_atime_ns, clip.st_mtime_ns))
    digests.append(check.content_digest(dataset))
    (evaluation / "audio/1.wav").unlink()
    digests.append(check.content_digest(dataset))
    with open(development / "evaluation_setup" / "fold1_train.csv", "a") as file:
        file.write("audio/park-lyon-6-15-a.wav\tpark\n")
    digests.append(check.content_digest(Dataset(development, evaluation)))
    assert len(set(digests)) == len(digests)


def test_digest_of_exchanged_clips(development):
    """All clips of a set have one size, and archives restore times: a rename changes neither."""
    a, b = development / A_CLIP, development / "audio/bus-lyon-1-10-b.wav"
    for path in (a, b):
        os.utime(path, ns=(10 ** 18, 10 ** 18))
    before = check.content_digest(Dataset(development))
    a.rename(development / "x")
    b.rename(a)
    (development / "x").rename(b)
    assert (a.stat().st_size, a.stat().st_mtime_ns) == (b.stat().st_size, b.stat().st_mtime_ns)
    assert check.content_digest(Dataset(development)) != before


def write_wav(path, declared=None, seconds=10.0, rate=16000):
    """A recording that declares ``declared`` bytes of audio, or as many as it has."""
    soundfile.write(path, np.zeros(round(rate * seconds)), rate, format="WAV", subtype="PCM_16")
    if declared is not None:
        with open(path, "rb+") as file:
            file.seek(40)
            file.write(declared.to_bytes(4, "little"))


@pytest.mark.parametrize(("change", "note"), [
    ({"declared": 0x7FFFF000}, "recordings that do not declare their length"),
    ({"declared": 160_000}, "recordings with much more data than they declare"),
    ({"rate": 8000}, "recordings with a lower sample rate than features.sample_rate"),
    ({"seconds": 15.1}, "recordings much longer than features.clip_seconds"),
    ({"seconds": 15.0}, None),  # no more than noted by its length
])
@pytest.mark.parametrize("where", ["development", "evaluation"])
def test_notes_about_sound(development, evaluation, change, note, where):
    for root in (development, evaluation):
        for path in (root / "audio").iterdir():
            write_wav(path)
    root, clip = (development, A_CLIP) if where == "development" else (evaluation, "audio/1.wav")
    write_wav(root / clip, **change)
    report = check.check(Dataset(development, evaluation), sample_rate=16000, clip_seconds=10.0)
    found = [text for text in report.notes if "recordings" in text and "another length" not in text]
    assert report.problems == [] and len(found) == bool(note)
    if note:
        assert found[0].startswith(f"evaluation set: {note}" if where == "evaluation" else note)
        assert found[0].endswith(f": 1 ({clip})")


def test_notes_about_sound_count_all_and_name_three(development):
    names = sorted(f"audio/{path.name}" for path in (development / "audio").iterdir())
    notes = check.check(Dataset(development), sample_rate=48000).notes
    [note] = [note for note in notes if "sample rate" in note]
    used = [name for name in names if "lyon-6" not in name]
    assert note.count(".wav") == 3 and ": 7 (" in note and note.endswith(", ...)")
    assert all(name in used for name in note[note.index("(") + 1:-6].split(", "))


@pytest.mark.parametrize(("seconds", "expected"), [
    ([10] * 6 + [4], "recordings of another length than most, which have 10 s: 1; they may be truncated\n"
                     "    audio/park-lyon-5-14-a.wav (4.00 s)"),
    ([10] * 4 + [4, 10.2, 10.05], "which have 10 s: 2;"),
    ([10] * 7, None),
    ([10.05, 10, 9.95, 10, 10, 10, 10], None),
    ([1, 2, 3, 4, 5, 5, 5], None),  # recordings of all lengths
])
def test_lengths(development, seconds, expected):
    clips = Dataset(development).clips
    for name, length in zip(clips.filename[clips.split != "unused"], seconds, strict=True):
        write_wav(development / name, seconds=length)
    text = "\n".join(check.check(Dataset(development)).notes)
    assert expected in text if expected else "another length" not in text


@pytest.mark.parametrize(("splits", "intended"), [(((4, 3),), True), (((3, 4),), False)])
def test_unused_clips(development, monkeypatch, splits, intended):
    monkeypatch.setattr(check, "_OFFICIAL_SPLITS", splits)
    [note] = [note for note in check.check(Dataset(development)).notes if "unused" in note]
    assert ("intended" in note) is intended and ("fold1_train.csv" in note) is not intended


def test_one_of_a_kind(development, edit):
    report = check.check(Dataset(development))
    report.facts.update({"labels": ["park"], "locations": 1, "cities": 1})
    report.facts["clips"].update({"meta": 1, "evaluation": 1})
    text = check.format_report(report)
    assert "1 clip of 1 scene, 1 location in 1 city\n" in text and "evaluation set: 1 clip\n" in text


def test_starts_without_torch_and_dcase_util():
    code = ("import sys, task1a.data.check, task1a.data.demo, task1a.data.tau_layout; "
            "sys.exit(bool({'torch', 'torchaudio', 'dcase_util'} & sys.modules.keys()))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_worker_processes_find_the_same(development, evaluation, monkeypatch):
    dataset = Dataset(development, evaluation)
    (development / A_CLIP).write_bytes(b"RIFF")
    alone = check.check(dataset)
    monkeypatch.setattr(check, "_MIN_HEADERS", 1)
    monkeypatch.setattr(check, "_CHUNK", 3)
    assert check.check(dataset) == alone
