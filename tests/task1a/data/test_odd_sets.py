"""One table of what can be wrong with a data set, each with what its check says of it."""
import os
import shutil
from functools import partial

import pytest

from task1a.data import check
from task1a.data.dataset import Dataset
from task1a.errors import InputError

CLIP, OTHER = "audio/bus-lyon-1-10-a.wav", "audio/bus-lyon-1-10-b.wav"
META, TRAIN, TEST, EVALUATE = ("meta.csv", "evaluation_setup/fold1_train.csv", "evaluation_setup/fold1_test.csv",
                               "evaluation_setup/fold1_evaluate.csv")


def replace(old, new, tables, root):
    for name in tables:
        path = root / name
        text = path.read_text(encoding="utf-8")
        assert old in text or len(tables) > 1
        path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")


def everywhere(old, new):
    return partial(replace, old, new, (META, TRAIN, TEST, EVALUATE))


def within(table, old, new):
    return partial(replace, old, new, (table,))


def listed_in_test(name):
    """A name of a training clip is listed in the test split as well, as a bus of another location."""
    def change(root):
        replace("filename\n", f"filename\n{name}\n", (TEST,), root)
        replace("scene_label\n", f"scene_label\n{name}\tbus\n", (EVALUATE,), root)
        replace("source_label\n", f"source_label\n{name}\tbus\tlyon-9\ta\n", (META,), root)
    return change


def replaced(name, make):
    """A file is replaced by what ``make`` puts in its place."""
    def change(root):
        (root / name).unlink()
        make(root / name)
    return change


def audio_is_a_file(root):
    shutil.rmtree(root / "audio")
    (root / "audio").touch()


fifo = getattr(os, "mkfifo", None)

ODD = {
    # spellings of a clip
    "./ in test": (listed_in_test(f"./{CLIP}"), f"meta.csv: clips listed twice: 1, first {CLIP} (lines 2 and 3)"),
    "// in test": (listed_in_test(CLIP.replace("/", "//")), "clips listed twice: 1"),
    "backslash in test": (listed_in_test(CLIP.replace("/", "\\")), "clips listed twice: 1"),
    "without folder in test": (listed_in_test(CLIP.removeprefix("audio/")), "clips listed twice: 1"),
    "/ at the end in test": (listed_in_test(f"{CLIP}/"), "is the name of a folder"),
    "zero-width space in test": (listed_in_test(f"{CLIP}\u200b"), "holds the character '\\u200b'"),
    "../ in test": (listed_in_test("audio/../audio/bus-lyon-1-10-a.wav"), "points outside the data set's folder"),
    "twice in train": (within(META, OTHER, f"./{CLIP}"), "clips listed twice: 1"),
    # names
    "name is the folder": (everywhere(CLIP, "audio/"), "meta.csv: line 2: 'audio/' is the name of a folder"),
    "name is a folder": (everywhere(CLIP, "audio"), "audio (unreadable: not a regular file)"),
    "name with an escape": (everywhere(CLIP, "audio/\x1b[2J.wav"), "holds the character '\\x1b'"),
    "name of 300 bytes": (everywhere(CLIP, f"audio/{'x' * 300}.wav"), "(unreadable: File name too long)"),
    "name not there": (everywhere(CLIP, "audio/caf\u00e9.wav"), "missing audio files: 1"),
    # labels, devices, locations
    "label scene_label": (everywhere("\tbus", "\tscene_label"), "the scene_label 'scene_label' has another"),
    "device overall": (within(META, "\ta\n", "\toverall\n"), "line 2: the device 'overall' has another meaning"),
    "device with an escape": (within(META, "\ta\n", "\t\x1b[2J\n"), "source_label '\\x1b[2J' holds the character"),
    "location with an escape": (within(META, "lyon-1\t", "\x1b[2J\t"), "identifier '\\x1b[2J' holds the character"),
    "header twice": (within(META, "source_label\n", "source_label\nfilename\tscene_label\tidentifier\tsource_label\n"),
                     "line 2: the scene_label 'scene_label' has another meaning"),
    # files
    "recording is a FIFO": (replaced(CLIP, fifo), f"{CLIP} (unreadable: not a regular file)"),
    "recording is a folder": (replaced(CLIP, os.mkdir), f"{CLIP} (unreadable: not a regular file)"),
    "recording is a device": (replaced(CLIP, lambda path: path.symlink_to("/dev/zero")), "not a regular file"),
    "recording is a loop": (replaced(CLIP, lambda path: path.symlink_to(path.name)), "Too many levels"),
    "audio is a file": (audio_is_a_file, "damaged audio files: 7"),
    "meta.csv is a FIFO": (replaced(META, fifo), "meta.csv: cannot be read (not a regular file)"),
    "train table is a FIFO": (replaced(TRAIN, fifo), "fold1_train.csv: cannot be read (not a regular file)"),
}


@pytest.mark.skipif(os.name == "nt", reason="links and special files")
@pytest.mark.parametrize(("change", "message"), ODD.values(), ids=ODD.keys())
def test_check(development, evaluation, change, message):
    change(development)
    try:
        check.content_digest(Dataset(development, evaluation))
        said = check.check(Dataset(development, evaluation)).problems
    except InputError as error:
        said = [str(error)]
        assert said[0].isprintable()
    assert any(message in text for text in said), said
    assert all(len(text) < 1000 for text in said)


def test_files_that_no_table_names_are_not_opened(development):
    before = check.content_digest(Dataset(development))
    (development / "evaluation_setup/fold1_more.csv").mkdir()
    assert check.content_digest(Dataset(development)) == before


@pytest.mark.parametrize(("name", "link"), [
    ("audio/link.wav", lambda root: os.symlink(os.path.basename(CLIP), root / "audio/link.wav")),
    ("audio/link.wav", lambda root: os.link(root / CLIP, root / "audio/link.wav")),
    ("more/bus-lyon-1-10-a.wav", lambda root: os.symlink("audio", root / "more"))],
    ids=["link", "hard link", "folder"])
def test_a_training_clip_that_is_linked_into_the_test_split_is_noted(development, name, link):
    listed_in_test(name)(development)
    link(development)
    notes = "\n".join(check.check(Dataset(development)).notes)
    assert f"nothing about unseen recordings\n    {name} (test) = {CLIP} (train)" in notes


def test_a_recording_twice_in_one_split_is_noted(development):
    (development / OTHER).unlink()
    os.link(development / CLIP, development / OTHER)
    report = check.check(Dataset(development))
    assert report.problems == []
    assert (f"recordings that one split lists under several names: 1\n    {CLIP} (train) = {OTHER} (train)"
            in report.notes)


def test_a_set_of_links_to_one_recording_is_noted_in_a_few_lines(development):
    names = []
    for table in (TRAIN, TEST):
        names += [line.split("\t")[0] for line in (development / table).read_text().splitlines()[1:]]
    for name in names[1:]:
        (development / name).unlink()
        os.link(development / names[0], development / name)
    report = check.check(Dataset(development))
    [note] = [note for note in report.notes if "under different names" in note]
    assert report.problems == [] and note.endswith(f" = ... ({len(names)} names)") and note.count(" = ") == 3


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_without_a_readable_clip(development, split):
    for line in (development / f"evaluation_setup/fold1_{split}.csv").read_text(encoding="utf-8").splitlines()[1:]:
        (development / line.split("\t")[0]).write_bytes(b"")
    (problem,) = check.check(Dataset(development), skip_damaged=True).problems
    assert f"in the {split} split" in problem and problem.endswith(": bus, park")


def test_an_evaluation_set_without_a_readable_clip(development, evaluation):
    for path in (evaluation / "audio").iterdir():
        path.write_bytes(b"")
    (problem,) = check.check(Dataset(development, evaluation), skip_damaged=True).problems
    assert problem.startswith("of 2 evaluation clips, none can be read")


def test_more_scene_labels_than_a_table_of_predictions_has_columns(development):
    with open(development / META, "a", encoding="utf-8") as meta:
        for number in range(1100):
            meta.write(f"audio/{number}.wav\tscene{number}\tlyon-1\ta\n")
    with pytest.raises(InputError, match="1,102 different scene labels; at most 1,022"):
        check.check(Dataset(development))
