import codecs

import pytest

from task1a.challenge import clip_key
from task1a.data import tau_layout
from task1a.errors import InputError

FIRST = "audio/bus-lyon-1-10-a.wav"


def test_reads_every_clip_in_the_order_of_meta(development):
    clips = tau_layout.read_development(development)
    assert list(clips.columns) == ["filename", "scene_label", "identifier", "device", "split", "simulated"]
    assert clips.drop(columns="simulated").values.tolist() == [
        ["audio/bus-lyon-1-10-a.wav", "bus", "lyon-1", "a", "train"],
        ["audio/bus-lyon-1-10-b.wav", "bus", "lyon-1", "b", "train"],
        ["audio/park-lyon-2-11-a.wav", "park", "lyon-2", "a", "train"],
        ["audio/park-porto-3-12-a.wav", "park", "porto-3", "a", "train"],
        ["audio/bus-porto-4-13-a.wav", "bus", "porto-4", "a", "test"],
        ["audio/bus-porto-4-13-s4.wav", "bus", "porto-4", "s4", "test"],
        ["audio/park-lyon-5-14-a.wav", "park", "lyon-5", "a", "test"],
        ["audio/park-lyon-6-15-a.wav", "park", "lyon-6", "a", "unused"]]


def test_reference_is_the_test_split_with_its_truth(development):
    assert tau_layout.read_reference(development).values.tolist() == [
        ["audio/bus-porto-4-13-a.wav", "bus", "a", False],
        ["audio/bus-porto-4-13-s4.wav", "bus", "s4", True],
        ["audio/park-lyon-5-14-a.wav", "park", "a", False]]


@pytest.mark.parametrize(("device", "scene", "column", "expected"), [
    ("s4", "bus", None, True), ("s6", "bus", None, True), ("s21", "bus", None, False), ("s10", "bus", None, False),
    ("s4", "kitchen", None, False),  # not the scenes of the challenge, so a telephone
    ("s4", "bus", ("no", "no"), False), ("s21", "kitchen", ("no", "yes"), True), ("pixel", "bus", ("no", "yes"), True)])
def test_simulated_devices(development, edit, device, scene, column, expected):
    for table in (development / "meta.csv", *(development / "evaluation_setup").iterdir()):
        lines = table.read_text().replace("s4", device).replace("bus", scene).splitlines()
        if column and table.name == "meta.csv":
            lines = [lines[0] + "\tsimulated", *(f"{line}\t{column[line.endswith(device)]}" for line in lines[1:])]
        table.write_text("\n".join(lines))
    clips = tau_layout.read_development(development)
    assert clips.simulated.tolist() == [expected and name == device for name in clips.device]


def test_simulated_devices_of_other_names(development, edit):
    """A set that does not name its clips as the TAU sets do, with a telephone s4."""
    for table in ("meta.csv", "evaluation_setup/fold1_test.csv", "evaluation_setup/fold1_evaluate.csv"):
        edit(development / table, "audio/bus-porto-4-13-s4.wav", "audio/7.wav")
    assert not tau_layout.read_development(development).simulated.any()


@pytest.mark.parametrize(("values", "message"), [
    ("maybe no", "line 2: simulated 'maybe' is not yes or no"),
    ("no yes", "line 4: device a is simulated on some lines")])
def test_malformed_column_simulated(development, values, message):
    first, other = values.split()
    lines = (development / "meta.csv").read_text().splitlines()
    lines = [f"{lines[0]}\tsimulated", *(f"{line}\t{first}" for line in lines[1:3]),
             *(f"{line}\t{other}" for line in lines[3:])]
    (development / "meta.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=f"meta.csv: {message}"):
        tau_layout.read_development(development)


@pytest.mark.parametrize(("listed", "there"), [
    ("x.wav", "audio/x.wav"), ("audio/x.wav", "x.wav"), ("audio/x.wav", "audio/x.WAV"), ("Audio/x.wav", "audio/x.wav"),
    ("audio/Z\u00fcrich.wav", "audio/Zu\u0308rich.wav"), ("audio/Zu\u0308rich.wav", "audio/Z\u00fcrich.wav"),
    ("Caf\u00e9/1.wav", "audio/Cafe\u0301/1.WAV"), ("audio/x.wav", ""), ("x/y.wav", "audio/x")])
def test_similar_file(tmp_path, listed, there):
    if there:
        (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / there).touch()
    assert tau_layout.similar_file(tmp_path, listed) == ("" if there == "audio/x" else there)


def test_evaluation_set_keeps_the_order_of_its_file(evaluation, edit):
    edit(evaluation / "evaluation_setup" / "fold1_test.csv", "audio/0.wav\naudio/1.wav", "audio/1.wav\naudio/0.wav")
    assert tau_layout.read_evaluation(evaluation).filename.tolist() == ["audio/1.wav", "audio/0.wav"]


def test_clip_in_both_splits_is_refused_or_marked(development, edit):
    setup = development / "evaluation_setup"
    edit(setup / "fold1_train.csv", "scene_label\n", "scene_label\naudio/park-lyon-5-14-a.wav\tpark\n")
    with pytest.raises(InputError, match="clips in both .*: 1, first audio/park-lyon-5-14-a.wav"):
        tau_layout.read_development(development)
    clips = tau_layout.read_development(development, allow_overlap=True)
    assert clips.filename[clips.split == "both"].tolist() == ["audio/park-lyon-5-14-a.wav"]
    assert (clips.split == "test").sum() == 2 and (clips.split == "train").sum() == 4


@pytest.mark.parametrize(("table", "old", "new", "message"), [
    ("meta.csv", "source_label", "device", "no column 'source_label'"),
    ("meta.csv", "\tbus\tlyon-1\ta", "\tbus\t\ta", "line 2: identifier '' is blank"),
    ("meta.csv", "lyon-1-10-b", "lyon-1-10-a", fr"clips listed twice: 1, first {FIRST} \(lines 2 and 3\)"),
    ("meta.csv", FIRST, "../other.wav", "points outside"),
    ("meta.csv", FIRST, "audio/../../other.wav", "points outside"),
    ("meta.csv", FIRST, "/etc/other.wav", "points outside"),
    ("meta.csv", FIRST, "C:\\other.wav", "points outside"),
    ("meta.csv", FIRST, ".", "is the name of a folder"),
    ("meta.csv", FIRST, "audio/", "is the name of a folder"),
    ("meta.csv", FIRST, "audio/else.wav", f"fold1_train.csv: clips that meta.csv lacks: 1, first {FIRST}"),
    ("evaluation_setup/fold1_train.csv", f"{FIRST}\tbus", f"{FIRST}\tpark",
     f"fold1_train.csv: clips with another scene_label than in meta.csv: 1, first {FIRST}"),
    ("evaluation_setup/fold1_evaluate.csv", "13-a.wav\tbus", "13-a.wav\tpark",
     "fold1_evaluate.csv: clips with another scene_label"),
    ("evaluation_setup/fold1_test.csv", "audio/park-lyon-5-14-a.wav\n", "",
     "list different clips .1 in one only, first audio/park-lyon-5-14-a.wav"),
])
def test_malformed_table_is_refused_by_name(development, edit, table, old, new, message):
    edit(development / table, old, new)
    with pytest.raises(InputError, match=message) as error:
        tau_layout.read_development(development)
    assert "\n" not in str(error.value) and str(development) in str(error.value)


def test_older_copy_of_the_split_is_named_as_such(development):
    # the withdrawn release: 13,965 and 2,970 clips, five of which the current meta.csv does not have
    train, test = [f"audio/{n}.wav" for n in range(13965)], [f"audio/{n}.wav" for n in range(20000, 22970)]
    setup = development / "evaluation_setup"
    (setup / "fold1_train.csv").write_text("filename\tscene_label\n" + "".join(f"{f}\tbus\n" for f in train))
    (setup / "fold1_test.csv").write_text("filename\n" + "".join(f"{f}\n" for f in test))
    (setup / "fold1_evaluate.csv").write_text("filename\tscene_label\n" + "".join(f"{f}\tbus\n" for f in test))
    (development / "meta.csv").write_text("filename\tscene_label\tidentifier\tsource_label\n" + "".join(
        f"{f}\tbus\tlyon-1\ta\n" for f in train[:-3] + test[:-2]))
    with pytest.raises(InputError, match=r"clips that meta.csv lacks: 3, first audio/13962.wav; this is the older"):
        tau_layout.read_development(development)
    assert tau_layout.older_copy(13962, 2968) == ""


@pytest.mark.parametrize("spelling", ["7.wav", "audio/7.wav", "./audio/7.wav", "audio//7.wav", "audio/./7.wav",
                                      "audio\\7.wav", ".\\audio\\\\7.wav"])
def test_clips_are_compared_by_the_normal_form_of_their_name_without_its_folder(spelling):
    assert clip_key(spelling) == "7.wav"


@pytest.mark.parametrize("change", [
    lambda text: codecs.BOM_UTF8 + text.replace(b"\n", b"\r\n").replace(b"audio/", b"audio\\"),
    lambda text: b"\n".join(b"\t".join(b'"%b"' % field for field in line.split(b"\t")) for line in text.splitlines()),
    lambda text: text.replace(b"audio/", b"./audio//")], ids=["Windows", "quotation marks", "other names of clips"])
def test_other_spellings_of_the_tables_are_read_alike(development, change):
    expected = tau_layout.read_development(development)
    for path in (development / "meta.csv", *(development / "evaluation_setup").iterdir()):
        path.write_bytes(change(path.read_bytes()))
    assert tau_layout.read_development(development).equals(expected)
