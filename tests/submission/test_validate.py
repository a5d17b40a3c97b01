"""A valid package, and many that differ from it in one place: each is refused for its own reason and no other."""
import stat
import zipfile

import pytest
import yaml

from submission import archive
from submission.package import package
from submission.validate import main, validate
from task1a.errors import InputError

LABEL = "Muller-Los_UGraz_task1a_1"
ABOVE = "Muller-Los_UGraz_task1/task1"
CSV, YAML = f"{ABOVE}/{LABEL}/{LABEL}.output.csv", f"{ABOVE}/{LABEL}/{LABEL}.meta.yaml"


@pytest.fixture(scope="module")
def valid(tmp_path_factory, make_run, authors, small_rules):
    base = tmp_path_factory.mktemp("valid")
    report = package([make_run(base / "run", clips=12)], authors, base / "out", small_rules)
    with zipfile.ZipFile(report.zip) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.fixture
def check(tmp_path, small_rules):
    """Write members as a zip; what is found there, as lines of (level, file without folders, where, found)."""

    def write_and_validate(members):
        with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
            for name, content in members.items():
                opened.writestr(name, content)
        return [(finding.level, finding.file.rsplit("/", 1)[-1], finding.where, finding.found)
                for finding in validate(tmp_path / "p.zip", small_rules)]

    return write_and_validate


def line(number, change):
    """Change the cells of one line of the output, counted from 1 as in an editor."""

    def mutate(members):
        lines = members[CSV].decode().split("\n")
        cells = change(lines[number - 1].split("\t"))
        lines[number - 1:number] = [] if cells is None else ["\t".join(cells)]
        return members | {CSV: "\n".join(lines).encode()}

    return mutate


def cells(*values):
    return lambda row: [row[0], "airport", *values, *["0"] * (10 - len(values))]


def field(path, value):
    """Set a field of the metadata, or remove it (...)."""

    def mutate(members):
        meta = yaml.safe_load(members[YAML])
        *above, key = (int(part) if part.isdigit() else part for part in path.split("."))
        node = meta
        for part in above:
            node = node[part]
        if value is ...:
            del node[key]
        else:
            node[key] = value
        return members | {YAML: yaml.safe_dump(meta).encode()}

    return mutate


def renamed(old, new):
    return lambda members: {name.replace(old, new): content for name, content in members.items()}


RESULTS = "results.development_dataset"
ERRORS = {
    "scene_label column dropped": (line(1, lambda row: [row[0], *row[2:]]), CSV, "line 1", "airport"),
    "a column twice": (line(1, lambda row: [*row[:-1], "bus"]), CSV, "line 1", "bus"),
    "labels in another order": (line(1, lambda row: [*row[:2], *row[:1:-1]]), CSV, "line 1", "another order"),
    "byte order mark": (lambda m: m | {CSV: b"\xef\xbb\xbf" + m[CSV]}, CSV, "line 1", "ufeff"),
    "Windows line ends": (lambda m: m | {CSV: m[CSV].replace(b"\n", b"\r\n")}, CSV, "", "carriage returns"),
    "not UTF-8": (lambda m: m | {CSV: m[CSV] + b"\xff"}, CSV, "byte ", "no UTF-8"),
    "binary junk": (lambda m: m | {CSV: bytes(range(13))}, CSV, "line 1", "x00"),
    "empty": (lambda m: m | {CSV: b""}, CSV, "line 1", "''"),
    "header only": (lambda m: m | {CSV: m[CSV].split(b"\n")[0]}, CSV, "", "no rows"),
    "a row twice": (lambda m: m | {CSV: m[CSV] + m[CSV].split(b"\n")[3]}, CSV, "line 14", "'audio/2.wav' again"),
    "a cell too few": (line(5, lambda row: row[:-1]), CSV, "line 5", "11 columns"),
    "an empty line": (line(5, lambda row: [*row[:-1], row[-1] + "\n"]), CSV, "line 6", "1 columns"),
    "not a wav": (line(2, lambda row: ["audio/0.mp3", *row[1:]]), CSV, "line 2, filename", "audio/0.mp3"),
    "nan": (line(4, cells("nan", "1")), CSV, "line 4, airport", "'nan'"),
    "text": (line(4, cells("1", "x")), CSV, "line 4, bus", "'x'"),
    "underscored number": (line(4, cells("1", "0_0")), CSV, "line 4, bus", "'0_0'"),
    "negative": (line(4, cells("1", "-1e-3")), CSV, "line 4, bus", "'-1e-3'"),
    "above one": (line(4, cells("1.0000001")), CSV, "line 4, airport", "'1.0000001'"),
    "sum of ten": (line(4, cells(*["1"] * 10)), CSV, "line 4", "sum to 10"),
    "sum off by 0.002": (line(4, cells("0.998")), CSV, "line 4", "sum to 0.998"),
    "label is not the argmax": (line(4, cells("0.4", "0.6")), CSV, "line 4, scene_label", "'airport'"),
    "unknown label": (line(4, lambda row: [row[0], "beach", *row[2:]]), CSV, "line 4, scene_label", "'beach'"),
    "stated label": (field("submission.label", "Kim_QTI_task1a_1"), YAML, "submission.label", "Kim_QTI"),
    "long abbreviation": (field("submission.abbreviation", "BCResNetASC"), YAML, "submission.abbreviation", "BCRes"),
    "number for text": (field("submission.abbreviation", 8), YAML, "submission.abbreviation", "8"),
    "nobody corresponds": (field("submission.authors.1.corresponding", ...), YAML, "submission.authors", "no corr"),
    "two correspond": (field("submission.authors.0.corresponding", True), YAML, "submission.authors", "2 corr"),
    "corresponding: 1": (field("submission.authors.0.corresponding", 1), YAML,
                         "submission.authors[0].corresponding", "1"),
    "bad address": (field("submission.authors.0.email", "a@b"), YAML, "submission.authors[0].email", "'a@b'"),
    "no institute": (field("submission.authors.0.affiliation.institute", ...), YAML,
                     "submission.authors[0].affiliation.institute", "no such field"),
    "no authors": (field("submission.authors", None), YAML, "submission.authors", "null"),
    "no system": (field("system", ...), YAML, "system", "no such field"),
    "no embeddings": (field("system.description.embeddings", ...), YAML, "system.description.embeddings", "no such"),
    "parameters as text": (field("system.complexity.total_parameters", "22k"), YAML,
                           "system.complexity.total_parameters", "'22k'"),
    "more non-zero than all": (field("system.complexity.total_parameters", 3), YAML,
                               "system.complexity.total_parameters_non_zero", "22,000"),
    "a billion values in 31 KB": (lambda m: field("system.complexity.total_parameters", 10**9)(
        field("system.complexity.total_parameters_non_zero", 10**9)(m)), YAML, "system.complexity.model_size", "32,2"),
    "size infinite": (field("system.complexity.model_size", float("inf")), YAML, "system.complexity.model_size", "inf"),
    "over the limit": (field("system.complexity.model_size", 128.1), YAML, "system.complexity.model_size", "131,174"),
    "external set without url": (field("system.external_datasets", [{"name": "A", "total_audio_length": 1}]), YAML,
                                 "system.external_datasets[0].url", "no such field"),
    "null result": (field(f"{RESULTS}.overall.logloss", None), YAML, f"{RESULTS}.overall.logloss", "null"),
    "accuracy above 100": (field(f"{RESULTS}.device_wise.s3.accuracy", 101), YAML,
                           f"{RESULTS}.device_wise.s3.accuracy", "101"),
    "half a class": (field(f"{RESULTS}.class_wise.bus", {"accuracy": 50}), YAML,
                     f"{RESULTS}.class_wise.bus.logloss", "no"),
    "class of other data": (field(f"{RESULTS}.class_wise.beach", {"logloss": 1, "accuracy": 50}), YAML,
                            f"{RESULTS}.class_wise", "'beach'"),
    "not YAML": (lambda m: m | {YAML: b"a: [\n"}, YAML, "", "flow"),
    "a list": (lambda m: m | {YAML: b"- 1\n"}, YAML, "", "[1]"),
    "python object": (lambda m: m | {YAML: b"a: !!python/object/apply:os.getcwd []\n"}, YAML, "", "constructor"),
    "deep nesting": (lambda m: m | {YAML: b"[" * 3000}, YAML, "", ""),
    "huge": (lambda m: m | {YAML: m[YAML] + b"#" * 10**6}, YAML, "", "bytes"),
    "no output": (lambda m: {YAML: m[YAML]}, LABEL, "", f"no {LABEL}.output.csv"),
    "output misnamed": (renamed(".output.csv", "x.output.csv"), f"{LABEL}x.output.csv", "", "x.output.csv"),
    "extra file": (lambda m: m | {f"{ABOVE}/{LABEL}/.DS_Store": b""}, ".DS_Store", "", "an extra file"),
    "stray file": (lambda m: m | {f"{ABOVE}/readme.txt": b""}, "readme.txt", "", "does not belong"),
    "empty zip": (lambda m: {}, "p.zip", "", "0 systems"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_one_thing_wrong(valid, check, name):
    mutate, file, where, found = ERRORS[name]
    findings = check(mutate(valid))
    assert len(findings) == 1, findings
    level, file_found, where_found, told = findings[0]
    assert (level, file_found) == ("error", file.rsplit("/", 1)[-1])
    assert where_found == where or (where == "byte " and where_found.startswith(where))
    assert found in told


def test_the_valid_one_is_valid(valid, check):
    assert check(valid) == []
    assert check(valid | {f"{ABOVE}/{LABEL}/{LABEL}.technical_report.pdf": b"%PDF"}) == []


@pytest.mark.parametrize(("mutate", "found"), [
    (lambda m: {name: content.replace(b"tram", b"boat") for name, content in m.items()}, "street_traffic boat"),
    (line(3, lambda row: None), "11 files, 0 of them not of the evaluation set, 1 of it missing"),
    (line(3, lambda row: ["audio/12.wav", *row[1:]]), "12 files, 1 of them not of the evaluation set, 1 of it missing"),
    (field("submission.name", "X (demo data)"), "demo data"),
    (field("submission.authors.0.email", "me@example.org"), "an author of the example"),
    (field(f"{RESULTS}.device_wise.s6", ...), "the devices a b c s1 s2 s3 s4 s5"),
    (field(f"{RESULTS}.class_wise.tram", ...), "no tram"),
])
def test_other_data_is_no_error(valid, check, mutate, found):
    [(level, _, _, told)] = check(mutate(valid))
    assert level == "not_submittable"
    assert found in told


@pytest.mark.parametrize("hierarchy", ["task1", "task1/x", "a/b/task1", "x/task2"])
def test_wrong_hierarchy(valid, check, hierarchy):
    findings = check(renamed(ABOVE, hierarchy)(valid))
    assert [told for _, _, _, told in findings] == ["a file that does not belong here"] * 2


@pytest.mark.parametrize("label", ["Kim_QTI_task1a_5", "Kim_QTI_task1b_1", "Kim_Q_TI_task1a_1", "K.J_Q_task1a_1", "K"])
def test_malformed_label(valid, check, label):
    findings = check(renamed(LABEL, label)(valid))
    assert [told for _, _, _, told in findings] == [f"the folder '{label}'"] * 2


def test_every_violation_is_told(valid, check):
    members = line(4, cells("nan"))(field("submission.abbreviation", "BCResNetASC")(field("system", ...)(valid)))
    members = line(9, cells("0.5"))(members)
    assert [where for _, _, where, _ in check(members)] == ["line 4, airport", "line 9", "system",
                                                            "submission.abbreviation"]


@pytest.mark.parametrize("name", ["../a.csv", "/a.csv", "b/../../a.csv", "C:/a.csv", "b\\a.csv", "b//a.csv"])
def test_path_outside_the_package(valid, check, name):
    [(level, _, _, found)] = check(valid | {name: b""})
    assert level == "error"
    assert found.startswith("the path")


def hostile(path, members, change):
    """Write a zip whose last member's header is changed."""
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            opened.writestr(name, content)
        info = zipfile.ZipInfo(f"{ABOVE}/{LABEL}/report.pdf")
        change(info)
        opened.writestr(info, b"target")
        change(opened.infolist()[-1])


@pytest.mark.parametrize(("change", "found"), [
    (lambda info: setattr(info, "external_attr", (stat.S_IFLNK | 0o777) << 16), "a link"),
    (lambda info: setattr(info, "compress_type", zipfile.ZIP_LZMA), "compression method 14"),
    (lambda info: setattr(info, "file_size", 4 << 30), "3 members of 4,29"),
])
def test_hostile_member(valid, tmp_path, small_rules, change, found):
    hostile(tmp_path / "p.zip", valid, change)
    [finding] = validate(tmp_path / "p.zip", small_rules)
    assert (finding.level, finding.found[:len(found)]) == ("error", found)


def test_encrypted_member(valid, tmp_path, small_rules):
    hostile(tmp_path / "p.zip", valid, lambda info: None)
    data = bytearray((tmp_path / "p.zip").read_bytes())
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "p.zip").write_bytes(data)
    assert [finding.found for finding in validate(tmp_path / "p.zip", small_rules)] == ["an encrypted member"]


def test_duplicate_and_damaged_members(valid, tmp_path, small_rules):
    path = tmp_path / "p.zip"
    with zipfile.ZipFile(path, "w") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        for name in (*valid, YAML):
            opened.writestr(name, valid[name])
    assert [finding.found for finding in validate(path, small_rules)] == ["the same name again"]
    with zipfile.ZipFile(path, "w") as opened:
        for name in valid:
            opened.writestr(name, valid[name])
    path.write_bytes(path.read_bytes().replace(b"audio/7.wav", b"audio/8.wav"))
    found = [(finding.file, finding.found) for finding in validate(path, small_rules)]
    assert found[0][0] == CSV
    assert "Bad CRC-32" in found[0][1]


def test_too_large_to_look_into(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 10_000)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(CSV, b"0" * 1_000_000)
    assert "1 members of 1,000,000 bytes" in str(validate(tmp_path / "bomb.zip")[0])
    (tmp_path / "folder" / LABEL).mkdir(parents=True)
    (tmp_path / "folder" / LABEL / "x").write_bytes(b"0" * 10_001)
    assert "more than a package can hold" in str(validate(tmp_path / "folder")[0])


def test_not_a_zip(tmp_path, capsys):
    (tmp_path / "p.zip").write_bytes(b"PK\x03\x04 junk")
    assert main([str(tmp_path / "p.zip")]) == 1
    assert "error: p.zip: found File is not a zip file, expected a zip file" in capsys.readouterr().out
    with pytest.raises(InputError, match="no such zip or folder"):
        main([str(tmp_path / "none.zip")])


def test_folders(valid, tmp_path, small_rules):
    for name, content in valid.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    assert validate(tmp_path / ABOVE, small_rules) == ()
    assert validate(tmp_path / "Muller-Los_UGraz_task1", small_rules) == ()  # the unpacked zip
    link = tmp_path / ABOVE / LABEL / "link.pdf"
    try:
        link.symlink_to(tmp_path / YAML)
    except OSError:
        pytest.skip("no symbolic links here")
    assert [finding.found for finding in validate(tmp_path / ABOVE, small_rules)] == ["a link or special file"]
