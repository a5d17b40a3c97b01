"""A valid package, and many that differ from it in one place: each is refused for its own reason and no other."""
import pytest
import yaml

LABEL = "Kim_QTI_task1a_1"
ABOVE = "Kim_QTI_task1/task1"
CSV, YAML = f"{ABOVE}/{LABEL}/{LABEL}.output.csv", f"{ABOVE}/{LABEL}/{LABEL}.meta.yaml"
RESULTS, AUTHORS, SIZE = "results.development_dataset", "submission.authors", "system.complexity"


def output(change):
    """Change the bytes of the output."""
    return lambda members: members | {CSV: change(members[CSV])}


def meta(change):
    """Change the bytes of the metadata."""
    return lambda members: members | {YAML: change(members[YAML])}


def line(number, change):
    """Change the cells of one line of the output, counted from 1 as in an editor; None removes it."""

    def mutate(data):
        lines = data.decode().split("\n")
        cells = change(lines[number - 1].split("\t"))
        lines[number - 1:number] = [] if cells is None else ["\t".join(cells)]
        return "\n".join(lines).encode()

    return output(mutate)


def named(name):
    """Line 4 with another file name."""
    return line(4, lambda row: [name, *row[1:]])


def cells(*values):
    """Line 4 with these probabilities, airport first and its label, and zeros after them."""
    return line(4, lambda row: [row[0], "airport", *values, *["0"] * (10 - len(values))])


def field(path, value):
    """Set a field of the metadata, or remove it (...)."""

    def mutate(data):
        tree = yaml.load(data, yaml.CSafeLoader)
        *above, key = (int(part) if part.isdigit() else part for part in path.split("."))
        node = tree
        for part in above:
            node = node[part]
        if value is ...:
            del node[key]
        else:
            node[key] = value
        return yaml.dump(tree, Dumper=yaml.CSafeDumper, allow_unicode=True, sort_keys=False).encode()

    return meta(mutate)


def written(old, new):
    """The metadata with another text in a place."""

    def mutate(data):
        assert data.count(old.encode()) >= 1
        return data.replace(old.encode(), new.encode(), 1)

    return meta(mutate)


def both(first, second):
    return lambda members: second(first(members))


def renamed(old, new):
    return lambda members: {name.replace(old, new): content for name, content in members.items()}


def added(name, content=b""):
    return lambda members: members | {name: content}


ERRORS = {
    # the table as a whole
    "scene_label column dropped": (line(1, lambda row: [row[0], *row[2:]]), CSV, "line 1", "airport"),
    "a column twice": (line(1, lambda row: [*row[:-1], "bus"]), CSV, "line 1", "bus"),
    "a column without a name": (line(1, lambda row: [*row, ""]), CSV, "line 1", "tram "),
    "labels in another order": (line(1, lambda row: [*row[:2], *row[:1:-1]]), CSV, "line 1", "another order"),
    "columns between commas": (output(lambda data: data.replace(b"\t", b",")), CSV, "line 1", "filename,scene_label"),
    "no header": (line(1, lambda row: None), CSV, "line 1", "audio/0.wav"),
    "byte order mark": (output(lambda data: b"\xef\xbb\xbf" + data), CSV, "line 1", "ufeff"),
    "Windows line ends": (output(lambda data: data.replace(b"\n", b"\r\n")), CSV, "", "carriage returns"),
    "UTF-16": (output(lambda data: data.decode().encode("utf-16")), CSV, "line 1", "no UTF-8"),
    "a byte that is not UTF-8": (output(lambda data: data + b"\xff"), CSV, "line 14", "no UTF-8"),
    "binary junk": (output(lambda data: bytes(range(13))), CSV, "line 1", "x00"),
    "empty": (output(lambda data: b""), CSV, "line 1", "''"),
    "header only": (output(lambda data: data.split(b"\n")[0]), CSV, "", "no rows"),
    "one endless line": (line(5, lambda row: [row[0], "x" * 9999]), CSV, "line 5", "10,011 bytes"),
    "an endless name": (named(f"audio/{'x' * 9999}.wav"), CSV, "line 4", " bytes"),
    "an endless number": (cells(f"0.5{'0' * 9999}", "0.5"), CSV, "line 4", " bytes"),
    "far too many lines": (output(lambda data: data + b"\n" * 200_000), CSV, "", "200,013 lines"),
    # its rows
    "a row twice": (output(lambda data: data + data.split(b"\n")[3]), CSV, "line 14", "'audio/2.wav' again"),
    "a row twice, with and without folder": (output(lambda data: data + data.split(b"\n")[3][6:]), CSV, "line 14",
                                             "'2.wav' again"),
    "a cell too few": (line(5, lambda row: row[:-1]), CSV, "line 5", "11 columns"),
    "a cell too many": (line(5, lambda row: [*row, "0"]), CSV, "line 5", "13 columns"),
    "a tab at the end": (line(5, lambda row: [*row, ""]), CSV, "line 5", "13 columns"),
    "spaces for tabs": (line(5, lambda row: [" ".join(row)]), CSV, "line 5", "1 columns"),
    "an empty line": (line(5, lambda row: [*row[:-1], row[-1] + "\n"]), CSV, "line 6", "1 columns"),
    "an empty line at the end": (output(lambda data: data + b"\n"), CSV, "line 14", "1 columns"),
    # its cells
    "not a wav": (named("audio/2.mp3"), CSV, "line 4, filename", "audio/2.mp3"),
    "no file name": (named(""), CSV, "line 4, filename", "''"),
    "a file elsewhere": (named("../audio/2.wav"), CSV, "line 4, filename", "'../audio/2.wav'"),
    "an absolute file": (named("/audio/2.wav"), CSV, "line 4, filename", "'/audio/2.wav'"),
    "a backslash": (named("audio\\2.wav"), CSV, "line 4, filename", "audio"),
    "NUL in a name": (named("audio/2\0.wav"), CSV, "line 4, filename", "x00"),
    "an escape sequence in a name": (named("audio/\x1b[2J2.wav"), CSV, "line 4, filename", "x1b"),
    "unknown label": (line(4, lambda row: [row[0], "beach", *row[2:]]), CSV, "line 4, scene_label", "'beach'"),
    "label in capitals": (line(4, lambda row: [row[0], row[1].upper(), *row[2:]]), CSV, "line 4, scene_label", "'"),
    "label is not the argmax": (cells("0.4", "0.6"), CSV, "line 4, scene_label", "'airport'"),
    "nan": (cells("nan", "1"), CSV, "line 4, airport", "'nan'"),
    "infinite": (cells("1", "inf"), CSV, "line 4, bus", "'inf'"),
    "beyond a double": (cells("1", "1e400"), CSV, "line 4, bus", "'1e400'"),
    "text": (cells("1", "x"), CSV, "line 4, bus", "'x'"),
    "empty cell": (cells("1", ""), CSV, "line 4, bus", "''"),
    "a space": (cells("1", " 0"), CSV, "line 4, bus", "' 0'"),
    "quotes": (cells("1", '"0"'), CSV, "line 4, bus", "0"),
    "decimal comma": (cells("1", "0,0"), CSV, "line 4, bus", "'0,0'"),
    "underscored number": (cells("1", "0_0"), CSV, "line 4, bus", "'0_0'"),
    "hexadecimal number": (cells("1", "0x0"), CSV, "line 4, bus", "'0x0'"),
    "Arabic digits": (cells("1", "٠"), CSV, "line 4, bus", "'٠'"),
    "negative, and the sum is right within the tolerance": (cells("1", "-1e-4"), CSV, "line 4, bus", "'-1e-4'"),
    "above one": (cells("1.0000001"), CSV, "line 4, airport", "'1.0000001'"),
    "percent": (cells("100"), CSV, "line 4, airport", "'100'"),
    "sum of ten": (cells(*["1"] * 10), CSV, "line 4", "sum to 10"),
    "sum of nothing": (cells("0"), CSV, "line 4", "sum to 0"),
    "sum off by 0.002": (cells("0.998"), CSV, "line 4", "sum to 0.998"),
    # the metadata as a file
    "not YAML": (meta(lambda data: b"a: [\n"), YAML, "line 2", "expected"),
    "a tab for indentation": (written("  overall:", "\t overall:"), YAML, "line ", "token"),
    "a list": (meta(lambda data: b"- 1\n"), YAML, "", "[1]"),
    "nothing": (meta(lambda data: b""), YAML, "", "None"),
    "python object": (meta(lambda data: b"a: !!python/object/apply:os.getcwd []\n"), YAML, "line 1", "constructor"),
    "metadata not UTF-8": (meta(lambda data: data.decode().encode("latin-1")), YAML, "", "UTF-8"),
    "metadata with NUL": (meta(lambda data: data + b"#\0"), YAML, "", "#x0000"),
    "lines that end with NEL": (meta(lambda data: data.replace(b"\n", b"\xc2\x85")), YAML, "line 1", "line separator"),
    "a line that ends with LS": (written("  name:", "\u2028  name:"), YAML, "line ", "line separator"),
    "two documents": (meta(lambda data: data + b"---\na: 1\n"), YAML, "line ", "another document"),
    "a key twice": (written("  name: BC-ResNet", "  name: BC-ResNet\n  name: X"), YAML, "line 4", "'name'"),
    "a reference": (written("    embeddings: null", "    embeddings: &a x\n    more: *a"), YAML, "line ", "reference"),
    "huge": (meta(lambda data: data + b"#" * 10**6), YAML, "", "bytes"),
    # what it says of the submission
    "stated label": (field("submission.label", "Kim_XYZ_task1a_1"), YAML, "submission.label", "Kim_XYZ"),
    "long abbreviation": (field("submission.abbreviation", "BCResNetASC"), YAML, "submission.abbreviation", "BCRes"),
    "number for text": (field("submission.abbreviation", 8), YAML, "submission.abbreviation", "8"),
    "date for text": (written("name: BC-ResNet", "name: 2021-06-15"), YAML, "submission.name", "date"),
    "blank name": (field("submission.name", " "), YAML, "submission.name", "' '"),
    "an escape sequence": (field("submission.name", "\x1b[2J"), YAML, "submission.name", "x1b"),
    "no authors": (field(AUTHORS, None), YAML, AUTHORS, "null"),
    "an empty list of authors": (field(AUTHORS, []), YAML, AUTHORS, "[]"),
    "authors by name": (field(AUTHORS, {"Kim": {}}), YAML, AUTHORS, "{'Kim': {}}"),
    "an author as text": (field(f"{AUTHORS}.1", "Kim"), YAML, f"{AUTHORS}[1]", "'Kim'"),
    "nobody corresponds": (field(f"{AUTHORS}.0.corresponding", ...), YAML, AUTHORS, "no corr"),
    "two correspond": (field(f"{AUTHORS}.1.corresponding", True), YAML, AUTHORS, "2 corr"),
    "corresponding: 1": (field(f"{AUTHORS}.1.corresponding", 1), YAML, f"{AUTHORS}[1].corresponding", "1"),
    "no domain": (field(f"{AUTHORS}.0.email", "a@b"), YAML, f"{AUTHORS}[0].email", "'a@b'"),
    "no at sign": (field(f"{AUTHORS}.0.email", "a.b.test"), YAML, f"{AUTHORS}[0].email", "'a.b.test'"),
    "two addresses": (field(f"{AUTHORS}.0.email", "a@b.test, c@d.test"), YAML, f"{AUTHORS}[0].email", "'a@b.test,"),
    "no name": (field(f"{AUTHORS}.0.email", "@b.test"), YAML, f"{AUTHORS}[0].email", "'@b.test'"),
    "two dots": (field(f"{AUTHORS}.0.email", "a@b..test"), YAML, f"{AUTHORS}[0].email", "'a@b..test'"),
    "no institute": (field(f"{AUTHORS}.0.affiliation.institute", ...), YAML,
                     f"{AUTHORS}[0].affiliation.institute", "no such field"),
    # of the system
    "no system": (field("system", ...), YAML, "system", "no such field"),
    "no embeddings": (field("system.description.embeddings", ...), YAML, "system.description.embeddings", "no such"),
    "a list for text": (field("system.description.acoustic_features", ["mel"]), YAML,
                        "system.description.acoustic_features", "['mel']"),
    "subsystems as text": (field("system.description.ensemble_method_subsystem_count", "two"), YAML,
                           "system.description.ensemble_method_subsystem_count", "'two'"),
    "parameters as text": (field(f"{SIZE}.total_parameters", "22k"), YAML, f"{SIZE}.total_parameters", "'22k'"),
    "parameters in halves": (field(f"{SIZE}.total_parameters", 22695.5), YAML, f"{SIZE}.total_parameters", "22695.5"),
    "true parameters": (field(f"{SIZE}.total_parameters", True), YAML, f"{SIZE}.total_parameters", "True"),
    "negative parameters": (field(f"{SIZE}.total_parameters_non_zero", -1), YAML,
                            f"{SIZE}.total_parameters_non_zero", "-1"),
    "an endless number of parameters": (written("total_parameters: 22695", f"total_parameters: 0x{'F' * 9999}"), YAML,
                                        f"{SIZE}.total_parameters", "an integer of 39,996 bits"),
    "more digits than Python reads": (written("total_parameters: 22695", f"total_parameters: {'9' * 9999}"), YAML,
                                      "", "digits"),
    "more non-zero than all": (field(f"{SIZE}.total_parameters", 3), YAML, f"{SIZE}.total_parameters_non_zero",
                               "22,000"),
    "a billion values in 31 KB": (both(field(f"{SIZE}.total_parameters", 10**9),
                                       field(f"{SIZE}.total_parameters_non_zero", 10**9)), YAML, f"{SIZE}.model_size",
                                  "32,256 bytes"),
    "size as text": (field(f"{SIZE}.model_size", "31.5 KB"), YAML, f"{SIZE}.model_size", "'31.5 KB'"),
    "size infinite": (field(f"{SIZE}.model_size", float("inf")), YAML, f"{SIZE}.model_size", "inf"),
    "size nan": (field(f"{SIZE}.model_size", float("nan")), YAML, f"{SIZE}.model_size", "nan"),
    "over the limit": (field(f"{SIZE}.model_size", 128.1), YAML, f"{SIZE}.model_size", "131,174"),
    "size in bytes": (field(f"{SIZE}.model_size", 32256), YAML, f"{SIZE}.model_size", "33,030,144 bytes"),
    "external set without url": (field("system.external_datasets.0.url", ...), YAML,
                                 "system.external_datasets[0].url", "no such field"),
    "length as text": (field("system.external_datasets.0.total_audio_length", "1 h"), YAML,
                       "system.external_datasets[0].total_audio_length", "'1 h'"),
    "external set as text": (field("system.external_datasets", "AudioSet"), YAML, "system.external_datasets",
                             "'AudioSet'"),
    # of the results
    "null result": (field(f"{RESULTS}.overall.logloss", None), YAML, f"{RESULTS}.overall.logloss", "null"),
    "result as text": (field(f"{RESULTS}.overall.accuracy", "54.5"), YAML, f"{RESULTS}.overall.accuracy", "'54.5'"),
    "negative log loss": (field(f"{RESULTS}.overall.logloss", -0.1), YAML, f"{RESULTS}.overall.logloss", "-0.1"),
    "infinite log loss": (field(f"{RESULTS}.class_wise.bus.logloss", float("inf")), YAML,
                          f"{RESULTS}.class_wise.bus.logloss", "inf"),
    "accuracy above 100": (field(f"{RESULTS}.device_wise.s3.accuracy", 101), YAML,
                           f"{RESULTS}.device_wise.s3.accuracy", "101"),
    "half a class": (field(f"{RESULTS}.class_wise.bus.logloss", ...), YAML, f"{RESULTS}.class_wise.bus.logloss", "no"),
    "a number for a class": (field(f"{RESULTS}.class_wise.bus", 51.0), YAML, f"{RESULTS}.class_wise.bus", "51.0"),
    "class of other data": (field(f"{RESULTS}.class_wise.beach", {"logloss": 1, "accuracy": 50}), YAML,
                            f"{RESULTS}.class_wise", "'beach'"),
    "no classes": (field(f"{RESULTS}.class_wise", {}), YAML, f"{RESULTS}.class_wise", "{}"),
    "no devices": (field(f"{RESULTS}.device_wise", ...), YAML, f"{RESULTS}.device_wise", "no such field"),
    # the files
    "no output": (lambda members: {YAML: members[YAML]}, LABEL, "", f"no {LABEL}.output.csv"),
    "no metadata": (lambda members: {CSV: members[CSV]}, LABEL, "", f"no {LABEL}.meta.yaml"),
    "output misnamed": (renamed(".output.csv", "x.output.csv"), f"{LABEL}x.output.csv", "", "x.output.csv"),
    "metadata misnamed": (renamed(f"{LABEL}.meta", "Kim_QTI_task1a_2.meta"), "Kim_QTI_task1a_2.meta.yaml", "",
                          "Kim_QTI_task1a_2.meta.yaml"),
    "two outputs": (added(f"{ABOVE}/{LABEL}/old.output.csv"), "old.output.csv", "", "an extra file"),
    "extra file": (added(f"{ABOVE}/{LABEL}/.DS_Store"), ".DS_Store", "", "an extra file"),
    "file beside the systems": (added(f"{ABOVE}/readme.txt"), "readme.txt", "", "does not belong"),
    "file at the top": (added("readme.txt"), "readme.txt", "", "does not belong"),
    "file further down": (added(f"{ABOVE}/{LABEL}/more/x.csv"), "x.csv", "", "does not belong"),
    "empty zip": (lambda members: {}, "p.zip", "", "0 systems"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_one_error(golden, found, name):
    mutate, file, where, told = ERRORS[name]
    package = golden()
    [finding] = found(mutate(package.members), package.rules)
    assert (finding.level, finding.file) == ("error", file.rsplit("/", 1)[-1])
    assert finding.where == where or (where == "line " and finding.where.startswith("line "))
    assert told in finding.found


@pytest.mark.parametrize("mutate", [
    lambda members: members,
    output(lambda data: data.removesuffix(b"\n")),
    output(lambda data: data.replace(b"audio/", b"")),
    output(lambda data: b"\n".join([data.split(b"\n")[0], *data.split(b"\n")[-2:0:-1]])),
    cells("1"),
    cells("+1.", "0e5", ".0", "1E-9"),
    cells("0.5", "0.5"),
    cells("0.9995"),
    field("submission.abbreviation", "BCResNet10"),
    field("system.external_datasets", []),
    field("system.external_datasets", None),
    field("system.description.ensemble_method_subsystem_count", 3),
    field(f"{RESULTS}.overall.accuracy", 54.6),
    field(f"{AUTHORS}.1.corresponding", False),
    meta(lambda data: data.replace(b"\n", b"\r\n")),
    added(f"{ABOVE}/{LABEL}/{LABEL}.technical_report.pdf", b"%PDF-1.7"),
    added(f"{ABOVE}/", b""),
])
def test_what_is_right(golden, found, mutate):
    package = golden()
    assert found(mutate(package.members), package.rules) == []


OTHER_DATA = [
    (lambda members: {name: content.replace(b"tram", b"boat") for name, content in members.items()},
     "street_traffic boat"),
    (line(3, lambda row: None), "11 files, 0 of them not of the evaluation set, 1 of it missing"),
    (named("audio/12.wav"), "12 files, 1 of them not of the evaluation set, 1 of it missing"),
    (named("audio/02.wav"), "12 files, 1 of them not of the evaluation set, 1 of it missing"),
    (named("video/2.wav"), "12 files, 1 of them not of the evaluation set, 1 of it missing"),
    (output(lambda data: data + data.split(b"\n")[3].replace(b"2.wav", b"12.wav")),
     "13 files, 1 of them not of the evaluation set, 0 of it missing"),
    (field("submission.name", "X (demo data)"), "demo data"),
    (field(f"{AUTHORS}.0.email", "me@example.org"), "an author of the example"),
    (field(f"{RESULTS}.device_wise.s6", ...), "the devices a b c s1 s2 s3 s4 s5"),
    (field(f"{RESULTS}.class_wise.tram", ...), "no tram"),
]


@pytest.mark.parametrize(("mutate", "told"), OTHER_DATA)
def test_other_data_is_no_error(golden, found, mutate, told):
    [finding] = found(mutate(golden().members), golden().rules)
    assert finding.level == "not_submittable" and told in finding.found


@pytest.mark.parametrize(("mutate", "where", "told"), [
    (field(f"{SIZE}.model_size", 125.5), f"{SIZE}.model_size", "128,512 bytes"),
    (both(field(f"{SIZE}.model_size", 0), field(f"{SIZE}.total_parameters_non_zero", 0)), f"{SIZE}.model_size", "0 b"),
    (field(f"{RESULTS}.overall.logloss", 0.9), f"{RESULTS}.overall.logloss", "0.9"),
    (field(f"{RESULTS}.overall.logloss", 1.95), f"{RESULTS}.overall.logloss", "1.95"),
    (field(f"{RESULTS}.class_wise.tram.logloss", 0), f"{RESULTS}.class_wise.tram.logloss", "0"),
    (field(f"{RESULTS}.class_wise.tram.logloss", 36.1), f"{RESULTS}.class_wise.tram.logloss", "36.1"),
    (field(f"{RESULTS}.overall.accuracy", 54.7), f"{RESULTS}.overall.accuracy", "54.7"),
    (field(f"{RESULTS}", {"overall": {"logloss": 1.5, "accuracy": 0.5},
                          **{group: {name: {"logloss": 1.5, "accuracy": 0.5} for name in names} for group, names in (
                              ("class_wise", "airport bus metro metro_station park public_square shopping_mall "
                               "street_pedestrian street_traffic tram".split()),
                              ("device_wise", "a b c s1 s2 s3 s4 s5 s6".split()))}}),
     f"{RESULTS}.overall.accuracy", "0.5"),
    (field("system.complexity.macs", 1), "system.complexity.macs", "unknown"),
    (field("notes", "x"), "notes", "unknown"),
    (field(f"{AUTHORS}.0.phone", "1"), f"{AUTHORS}[0].phone", "unknown"),
    (field(f"{RESULTS}.overall.f1", 0.5), f"{RESULTS}.overall.f1", "unknown"),
    (added(f"{ABOVE}/{LABEL}/{LABEL}.pdf", b"<html>"), "", "no PDF"),
])
def test_what_is_only_doubtful(golden, found, mutate, where, told):
    package = golden()
    [finding] = found(mutate(package.members), package.rules)
    assert (finding.level, finding.where) == ("warning", where)
    assert told in finding.found


@pytest.mark.parametrize("hierarchy", ["task1/x", "a/b/task1", "x/task2", ""])
def test_wrong_hierarchy(golden, found, hierarchy):
    package = golden()
    findings = found(renamed(f"{ABOVE}/", f"{hierarchy}/".lstrip("/"))(package.members), package.rules)
    assert [finding.found for finding in findings] == ["a file that does not belong here"] * 2


@pytest.mark.parametrize("label", ["Kim_QTI_task1a_5", "Kim_QTI_task1b_1", "Kim_Q_TI_task1a_1", "K.J_Q_task1a_1", "K",
                                   "Kim_QTI_task1a_1 ", "Kim_QTI_task1a_01", "Kím_QTI_task1a_1", "Kim_QTI_task1a_٢"])
def test_malformed_label(golden, found, label):
    package = golden()
    findings = found(renamed(LABEL, label)(package.members), package.rules)
    assert [finding.found for finding in findings] == [f"the folder {label!r}"] * 2


def test_more_systems_than_a_team_may_hand_in(golden, found):
    package = golden(systems=4)
    assert found(package.members, package.rules) == []
    more = {name.replace("Kim", "Lee"): content.replace(b"Kim_QTI", b"Lee_QTI")
            for name, content in package.members.items() if "task1a_1" in name}
    assert [finding.found for finding in found(package.members | more, package.rules)] == ["5 systems"]
    # so that their number does not make it slow
    many = {name.replace("Kim", f"Lee{number}"): b"" for number in range(40) for name in golden().members}
    findings = found(many, package.rules)
    assert len(findings) == 1 + 4 * 2
    assert findings[0].found == "40 systems"


def test_every_violation_is_told(golden, found):
    package = golden()
    mutate = both(cells("nan", "x", "0.5"), both(line(9, lambda row: [row[0], "beach", "1", *row[3:]]),
                  both(field("system", ...), field("submission.abbreviation", "BCResNetASC"))))
    assert [finding.where for finding in found(mutate(package.members), package.rules)] == [
        "line 4, airport", "line 4, bus", "line 9, scene_label", "line 9", "submission.abbreviation", "system"]


def test_a_duplicate_in_the_place_of_another_clip_is_two_violations(golden, found):
    package = golden()
    assert [(finding.level, finding.where) for finding in found(named("audio/1.wav")(package.members), package.rules)] \
        == [("error", "line 4"), ("not_submittable", "")]


def test_a_table_that_is_all_wrong_is_not_told_without_end(golden, found):
    package = golden(clips=12)
    rows = b"".join(b"audio/%d.mp3\tbus%s\n" % (index, b"\tx" * 10) for index in range(20_000))
    header = package.members[CSV].split(b"\n")[0] + b"\n"
    findings = found(package.members | {CSV: header + rows}, package.rules)
    assert len(findings) == 10_001
    assert findings[-1].found == "more than 10,000 violations"
    assert findings[9_999].where == "line 911, filename"  # eleven in a row


def test_full_size(golden, found):
    package = golden(clips=7920, systems=2)
    assert found(package.members, package.rules) == []
    [finding] = found(line(5000, lambda row: [*row[:-1], "nan"])(package.members), package.rules)
    assert (finding.where, finding.found) == ("line 5000, tram", "'nan'")
