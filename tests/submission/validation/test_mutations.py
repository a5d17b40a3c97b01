"""A valid package, and many that differ from it in one place: each is refused for its own reason and no other, or
accepted, if the organisers' validator reads it alike, with a note at most."""
import csv
import io
import random

import pytest
import yaml

LABEL = "Kim_QTI_task1a_1"
ABOVE = "Kim_QTI_task1/task1"
CSV, YAML = f"{ABOVE}/{LABEL}/{LABEL}.output.csv", f"{ABOVE}/{LABEL}/{LABEL}.meta.yaml"
RESULTS, AUTHORS, SIZE = "results.development_dataset", "submission.authors", "system.complexity"


def output(change):
    """Change the bytes of every output."""
    return lambda members: {name: change(data) if name.endswith(".csv") else data for name, data in members.items()}


def meta(change):
    """Change the bytes of the metadata."""
    return lambda members: {name: change(data) if name.endswith(".yaml") else data for name, data in members.items()}


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


def columns(*order):
    """The columns in another order, the cells with them."""
    return output(lambda data: "".join("\t".join(row.split("\t")[place] for place in order) + "\n"
                                       for row in data.decode().splitlines()).encode())


def quoted(data):
    """A table as Python's csv module writes it with quotes."""
    text = io.StringIO()
    csv.writer(text, delimiter="\t", quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
        row.split("\t") for row in data.decode().splitlines())
    return text.getvalue().encode()


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
    "labels in another order": (line(1, lambda row: [*row[:2], *row[:1:-1]]), CSV, "line 1", "cells contradict"),
    "columns between commas": (output(lambda data: data.replace(b"\t", b",")), CSV, "line 1", "filename,scene_label"),
    "no header": (line(1, lambda row: None), CSV, "line 1", "audio/0.wav"),
    "byte order mark": (output(lambda data: b"\xef\xbb\xbf" + data), CSV, "line 1", "byte order mark"),
    "line ends of old Macs": (output(lambda data: data.replace(b"\n", b"\r")), CSV, "", "carriage returns without"),
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
    "spaces for tabs": (line(5, lambda row: [" ".join(row)]), CSV, "line 5", "1 column"),
    "an empty line": (line(5, lambda row: [*row[:-1], row[-1] + "\n"]), CSV, "line 6", "an empty line"),
    "empty lines at the end": (output(lambda data: data + b"\n \t\n\n"), CSV, "line 14", "the first of 3 empty lines"),
    # its cells
    "not a wav": (named("audio/2.mp3"), CSV, "line 4, filename", "audio/2.mp3"),
    "no file name": (named(""), CSV, "line 4, filename", "''"),
    "a name in capitals": (named("audio/2.WAV"), CSV, "line 4, filename", "'audio/2.WAV'"),
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
    "false as text": (field(f"{AUTHORS}.1.corresponding", "false"), YAML, f"{AUTHORS}[1].corresponding", "'false'"),
    "two correspond": (field(f"{AUTHORS}.1.corresponding", True), YAML, AUTHORS, "2 corr"),
    "no domain": (field(f"{AUTHORS}.0.email", "a@b"), YAML, f"{AUTHORS}[0].email", "'a@b'"),
    "no at sign": (field(f"{AUTHORS}.0.email", "a.b.test"), YAML, f"{AUTHORS}[0].email", "'a.b.test'"),
    "two addresses": (field(f"{AUTHORS}.0.email", "a@b.test, c@d.test"), YAML, f"{AUTHORS}[0].email", "'a@b.test,"),
    "no name": (field(f"{AUTHORS}.0.email", "@b.test"), YAML, f"{AUTHORS}[0].email", "'@b.test'"),
    "two dots": (field(f"{AUTHORS}.0.email", "a@b..test"), YAML, f"{AUTHORS}[0].email", "'a@b..test'"),
    # of the system
    "no system": (field("system", ...), YAML, "system", "no such field"),
    "no embeddings": (field("system.description.embeddings", ...), YAML, "system.description.embeddings", "no such"),
    "parameters as text": (field(f"{SIZE}.total_parameters", "22k"), YAML, f"{SIZE}.total_parameters", "'22k'"),
    "parameters in halves": (field(f"{SIZE}.total_parameters", 22695.5), YAML, f"{SIZE}.total_parameters", "22695.5"),
    "true parameters": (field(f"{SIZE}.total_parameters", True), YAML, f"{SIZE}.total_parameters", "True"),
    "a comma in a number": (field(f"{SIZE}.total_parameters", "22,695"), YAML, f"{SIZE}.total_parameters", "'22,695'"),
    "negative parameters": (field(f"{SIZE}.total_parameters_non_zero", -1), YAML,
                            f"{SIZE}.total_parameters_non_zero", "-1"),
    "an endless number of parameters": (written("total_parameters: 22695", f"total_parameters: 0x{'F' * 9999}"), YAML,
                                        f"{SIZE}.total_parameters", "an integer of 39,996 bits"),
    "more digits than Python reads": (written("total_parameters: 22695", f"total_parameters: {'9' * 9999}"), YAML,
                                      "line ", "no valid int"),
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
    "script for an address": (field("system.source_code", " Java\tscript:x()"), YAML, "system.source_code", "' Java"),
    "data for an address": (field("system.external_datasets.0.url", "data:,x"), YAML,
                            "system.external_datasets[0].url", "'data:,x'"),
    # of the results
    "percent sign": (field(f"{RESULTS}.overall.accuracy", "54.5 %"), YAML, f"{RESULTS}.overall.accuracy", "'54.5 %'"),
    "results null": (field(RESULTS, None), YAML, RESULTS, "null"),
    "a class null": (field(f"{RESULTS}.class_wise.bus", None), YAML, f"{RESULTS}.class_wise.bus", "null"),
    "negative log loss": (field(f"{RESULTS}.overall.logloss", -0.1), YAML, f"{RESULTS}.overall.logloss", "-0.1"),
    "infinite log loss": (field(f"{RESULTS}.class_wise.bus.logloss", float("inf")), YAML,
                          f"{RESULTS}.class_wise.bus.logloss", "inf"),
    "accuracy above 100": (field(f"{RESULTS}.device_wise.s3.accuracy", 101), YAML,
                           f"{RESULTS}.device_wise.s3.accuracy", "101"),
    "half a class": (field(f"{RESULTS}.class_wise.bus.logloss", ...), YAML, f"{RESULTS}.class_wise.bus.logloss", "no"),
    "a number for a class": (field(f"{RESULTS}.class_wise.bus", 51.0), YAML, f"{RESULTS}.class_wise.bus", "51.0"),
    "class of other data": (field(f"{RESULTS}.class_wise.beach", {"logloss": 1, "accuracy": 50}), YAML,
                            f"{RESULTS}.class_wise", "'beach'"),
    "no devices": (field(f"{RESULTS}.device_wise", ...), YAML, f"{RESULTS}.device_wise", "no such field"),
    # the files
    "no output": (lambda members: {YAML: members[YAML]}, LABEL, "", f"no {LABEL}.output.csv"),
    "no metadata": (lambda members: {CSV: members[CSV]}, LABEL, "", f"no {LABEL}.meta.yaml"),
    "output misnamed": (renamed(".output.csv", "x.output.csv"), f"{LABEL}x.output.csv", "", "x.output.csv"),
    "output in capitals": (renamed(".output.csv", ".OUTPUT.CSV"), f"{LABEL}.OUTPUT.CSV", "", "OUTPUT.CSV"),
    "yml": (renamed(".meta.yaml", ".meta.yml"), f"{LABEL}.meta.yml", "", ".meta.yml"),
    "metadata misnamed": (renamed(f"{LABEL}.meta", "Kim_QTI_task1a_2.meta"), "Kim_QTI_task1a_2.meta.yaml", "",
                          "Kim_QTI_task1a_2.meta.yaml"),
    "two outputs": (added(f"{ABOVE}/{LABEL}/old.output.csv"), "old.output.csv", "", "an extra file"),
    "file beside the systems": (added(f"{ABOVE}/readme.txt"), "readme.txt", "", "does not belong"),
    "file further down": (added(f"{ABOVE}/{LABEL}/more/x.csv"), "x.csv", "", "does not belong"),
    "Finder's file where the validator stops": (added(f"{ABOVE}/.DS_Store"), ".DS_Store", "", "1 file of the oper"),
    "macOS's zip": (lambda members: members | {f"__MACOSX/{name}".replace(f"/{LABEL}.", f"/._{LABEL}."): b""
                                               for name in members}, f"._{LABEL}.meta.yaml", "", "2 files of the oper"),
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


INSIDE_2024 = "task1/Kim_QTI_task1_1"
NULL = {"logloss": None, "accuracy": None}
# what the organisers' validators or templates take, as (year, change, where and what a warning tells)
GOOD = {
    # the table
    "no line end at the end": ("2021", output(lambda data: data.removesuffix(b"\n")), None),
    "no folder": ("2021", output(lambda data: data.replace(b"audio/", b"")), None),
    "some without folder": ("2021", output(lambda data: data.replace(b"audio/1", b"1")), None),
    "another folder": ("2021", output(lambda data: data.replace(b"audio/", b"tau/audio/")), ("", "'tau/audio/0.wav'")),
    "a file elsewhere": ("2021", named("../audio/2.wav"), ("", "'../audio/2.wav'")),
    "an absolute path": ("2021", named("/data/audio/2.wav"), ("", "'/data/audio/2.wav'")),
    "rows in another order": ("2021", output(lambda data: b"\n".join([data.split(b"\n")[0],
                                                                      *data.split(b"\n")[-2:0:-1]])), None),
    "columns in another order": ("2021", columns(0, *range(11, 1, -1), 1), ("line 1", "columns in another order")),
    "CR LF": ("2021", output(lambda data: data.replace(b"\n", b"\r\n")), ("", "CR LF")),
    "CR LF in part": ("2025", output(lambda data: data.replace(b"\n", b"\r\n", 3)), ("", "CR LF")),
    "CR CR LF": ("2022", output(lambda data: data.replace(b"\n", b"\r\r\n")), ("", "CR LF")),
    "all quoted": ("2021", output(quoted), ("line 1", "quotes")),
    "a quoted number": ("2023", cells("1", '"0"'), ("line 4", "quotes")),
    "a space": ("2021", cells("1", " 0"), ("line 4", "spaces")),
    "an integer": ("2021", cells("1"), None),
    "forms of numbers": ("2021", cells("+1.", "0e5", ".0", "1E-9"), None),
    "a tie": ("2021", cells("0.5", "0.5"), None),
    "rounded": ("2021", cells("0.9995"), None),
    # the metadata as a file
    "metadata with CR LF": ("2021", meta(lambda data: data.replace(b"\n", b"\r\n")), None),
    "metadata with a byte order mark": ("2021", meta(lambda data: b"\xef\xbb\xbf" + data), None),
    "a tagged null": ("2021", written("embeddings: null", "embeddings: !!null"), None),
    # of the submission
    "ten characters": ("2021", field("submission.abbreviation", "BCResNet10"), None),
    "not corresponding": ("2021", field(f"{AUTHORS}.1.corresponding", False), None),
    "corresponding null": ("2021", field(f"{AUTHORS}.1.corresponding", None), None),
    "corresponding: 1": ("2021", field(f"{AUTHORS}.0.corresponding", 1), None),
    "true as text": ("2021", field(f"{AUTHORS}.0.corresponding", "true"), (f"{AUTHORS}[0].corresponding", "'true'")),
    "no department": ("2021", field(f"{AUTHORS}.0.affiliation.department", ...), None),
    "an empty department": ("2024", field(f"{AUTHORS}.0.affiliation.department", ""), None),
    "no institute": ("2021", field(f"{AUTHORS}.0.affiliation.institute", ...),
                     (f"{AUTHORS}[0].affiliation.institute", "no such field")),
    # of the system
    "external sets empty": ("2021", field("system.external_datasets", ""), None),
    "external sets null": ("2022", field("system.external_datasets", None), None),
    "no external sets": ("2021", field("system.external_datasets", []), None),
    "an external set of nulls": ("2021", field("system.external_datasets", [
        {"name": None, "url": "", "total_audio_length": None}]), None),
    "an external set of unknown length": ("2021", field("system.external_datasets.0.total_audio_length", None), None),
    "a length as text": ("2021", field("system.external_datasets.0.total_audio_length", "1 h"),
                         ("system.external_datasets[0].total_audio_length", "'1 h'")),
    "an external set by name": ("2021", field("system.external_datasets", "AudioSet"),
                                ("system.external_datasets", "'AudioSet'")),
    "source code empty": ("2021", field("system.source_code", ""), None),
    "subsystems": ("2021", field("system.description.ensemble_method_subsystem_count", 3), None),
    "subsystems in words": ("2021", field("system.description.ensemble_method_subsystem_count", "two"),
                            ("system.description.ensemble_method_subsystem_count", "'two'")),
    "features as a list": ("2021", field("system.description.acoustic_features", ["mel", "CQT"]),
                           ("system.description.acoustic_features", "['mel', 'CQT']")),
    "a rate as number": ("2023", field("system.description.input_sampling_rate", 32.0),
                         ("system.description.input_sampling_rate", "32.0")),
    "no complexity management": ("2021", field("system.description.complexity_management", ...),
                                 ("system.description.complexity_management", "no such field")),
    "no non-zero parameters": ("2021", field(f"{SIZE}.total_parameters_non_zero", ...),
                               (f"{SIZE}.total_parameters_non_zero", "no such field")),
    "non-zero parameters null": ("2023", field(f"{SIZE}.total_parameters_non_zero", None),
                                 (f"{SIZE}.total_parameters_non_zero", "null")),
    "parameters as a float": ("2021", field(f"{SIZE}.total_parameters", 22695.0), None),
    "an integer for a size": ("2021", field(f"{SIZE}.model_size", 31), None),
    "parameters as text": ("2021", field(f"{SIZE}.total_parameters", "22695"), (f"{SIZE}.total_parameters", "'22695'")),
    "operations in powers": ("2022", written("macs: 29000000", "macs: 29e6"), (f"{SIZE}.macs", "'29e6'")),
    "the code's address in a list": ("2025", field("system.inference_code", ["https://a.test/b"]), None),
    # of the results
    "log loss as text": ("2021", written("logloss: 1.45", "logloss: 145e-2"),
                         (f"{RESULTS}.overall.logloss", "'145e-2'")),
    "log loss null": ("2021", field(f"{RESULTS}.overall.logloss", None), (RESULTS, "null for overall.logloss")),
    "accuracy null": ("2022", field(f"{RESULTS}.overall.accuracy", None), (RESULTS, "null for overall.accuracy")),
    "log loss null in 2022": ("2022", field(f"{RESULTS}.overall.logloss", None), None),
    "log loss of classes null": ("2023", meta(lambda data: yaml.safe_dump(
        {**(tree := yaml.safe_load(data)), "results": {"development_dataset": {
            **tree["results"]["development_dataset"],
            "class_wise": {name: {**scores, "logloss": None} for name, scores in
                           tree["results"]["development_dataset"]["class_wise"].items()}}}}).encode()), None),
    "log loss null in 2024": ("2024", field(f"{RESULTS}.split_50.class_wise.bus.logloss", None), None),
    "a split null": ("2024", field(f"{RESULTS}.split_5", None), (f"{RESULTS}.split_5", "null for overall")),
    "a class without scores": ("2025", field(f"{RESULTS}.general.class_wise.bus", NULL),
                               (f"{RESULTS}.general", "null for class_wise.bus.accuracy")),
    "no classes": ("2021", field(f"{RESULTS}.class_wise", None), (RESULTS, "null for class_wise")),
    "empty devices": ("2021", field(f"{RESULTS}.device_wise", {}), (RESULTS, "null for device_wise")),
    "a rounded mean": ("2021", field(f"{RESULTS}.overall.accuracy", 54.6), None),
    # the files
    "a report": ("2021", added(f"{ABOVE}/{LABEL}/{LABEL}.technical_report.pdf", b"%PDF-1.7"), None),
    "a large report": ("2021", added(f"{ABOVE}/{LABEL}.pdf", b"%PDF-" + random.Random(0).randbytes(3_000_000)), None),
    "entries of folders": ("2021", added(f"{ABOVE}/", b""), None),
    "Finder's file in a system": ("2021", added(f"{ABOVE}/{LABEL}/.DS_Store"), ("", "1 file of the operating system")),
    "Finder's file at the top": ("2024", added(".DS_Store"), ("", "1 file of the operating system")),
    "Finder's part of a report": ("2021", added("__MACOSX/Kim_QTI_task1/task1/._a.pdf"), ("", "1 file of the op")),
    "Explorer's files": ("2022", both(added(f"{INSIDE_2024}/Thumbs.db"), added(f"{INSIDE_2024}/desktop.ini")),
                         ("", "2 files of the operating system")),
    "a second ending": ("2021", renamed(".output.csv", ".output.csv.txt"), ("", ".csv.txt")),
    "notes in a system": ("2021", added(f"{ABOVE}/{LABEL}/notes.txt"), ("", "an extra file")),
    "a file at the top": ("2021", added("readme.txt"), ("", "1 file of no system")),
    "another task": ("2023", both(added("task2/Kim_QTI_task2_1/a.csv"), added("task2/Kim_QTI_task2_1/b.yaml")),
                     ("", "2 files of no system")),
    "subtask B": ("2021", both(added(f"{ABOVE}/Kim_QTI_task1b_1/Kim_QTI_task1b_1.output.csv"),
                               added(f"{ABOVE}/Kim_QTI_task1b_1/Kim_QTI_task1b_1.meta.yaml")), ("", "systems of subt")),
    "Task1 for task1": ("2021", renamed("/task1/", "/Task1/"), ("", "the folder 'Task1'")),
}


@pytest.mark.parametrize("name", GOOD)
def test_good(golden, found, name):
    year, mutate, note = GOOD[name]
    package = golden(year)
    members = mutate(package.members)
    assert members != package.members
    findings = [(finding.level, finding.where) for finding in found(members, package.rules)]
    if year == "2024" and note and note[0].startswith("line") or name.startswith("CR"):  # once for each split
        findings = sorted(set(findings))
    assert findings == ([("warning", note[0])] if note else [])
    assert note is None or note[1] in found(members, package.rules)[0].found


OTHER_DATA = [
    (lambda members: {name: content.replace(b"tram", b"boat") for name, content in members.items()},
     "street_traffic boat"),
    (line(3, lambda row: None), "11 files, 0 of them not of the evaluation set, 1 of it missing"),
    (named("audio/12.wav"), "12 files, 1 of them not of the evaluation set, 1 of it missing"),
    (named("audio/02.wav"), "12 files, 1 of them not of the evaluation set, 1 of it missing"),
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
    (field("system.source_code", "will follow"), "system.source_code", "'will follow'"),
    (field(f"{AUTHORS}.0.phone", "1"), f"{AUTHORS}[0].phone", "unknown"),
    (field(f"{RESULTS}.overall.f1", 0.5), f"{RESULTS}.overall.f1", "unknown"),
    (added(f"{ABOVE}/{LABEL}/{LABEL}.pdf", b"<html>"), "", "no PDF"),
])
def test_what_is_only_doubtful(golden, found, mutate, where, told):
    package = golden()
    [finding] = found(mutate(package.members), package.rules)
    assert (finding.level, finding.where) == ("warning", where)
    assert told in finding.found


@pytest.mark.parametrize("hierarchy", ["task1", "task1/x/y", "a/b/task1", ""])
def test_wrong_hierarchy(golden, found, hierarchy):
    package = golden(systems=3)
    [finding] = found(renamed(f"{ABOVE}/", f"{hierarchy}/".lstrip("/"))(package.members), package.rules)
    assert (finding.level, finding.found) == ("error", f"systems in the folder {hierarchy!r}")


@pytest.mark.parametrize("label", ["Kim_QTI_task1a_5", "Kim_QTI_task1_1", "Kim_Q_TI_task1a_1", "K.J_Q_task1a_1", "K",
                                   "Kim_QTI_task1a_1 ", "Kim_QTI_task1a_01", "Kím_QTI_task1a_1", "Kim_QTI_task1a_٢"])
def test_malformed_label(golden, found, label):
    package = golden()
    [finding] = found(renamed(LABEL, label)(package.members), package.rules)
    assert (finding.level, finding.found) == ("error", f"the folder {label!r}")


@pytest.mark.parametrize(("year", "told"), [("2021", []), ("2022", []), ("2024", ["4 systems"])])
def test_the_fourth_system(golden, found, year, told):
    """The validators take four systems; the template of 2024 numbers three."""
    package = golden(year, systems=4)
    assert [(finding.level, finding.found) for finding in found(package.members, package.rules)] \
        == [("warning", text) for text in told]
    assert year != "2024" or found(golden(year, systems=3).members, package.rules) == []


def test_predictions_twice(golden, found):
    """Five copies are no five shares; two systems may be alike, but hardly on purpose."""
    package = golden("2024")
    copied = {name: package.members[package.output] if name.endswith(".csv") else data
              for name, data in package.members.items()}
    [finding] = found(copied, package.rules)
    assert (finding.level, finding.found.count("split_")) == ("error", 5)
    package = golden("2023", systems=2)
    copied = {name: package.members[package.output] if name.endswith(".csv") else data
              for name, data in package.members.items()}
    [finding] = found(copied, package.rules)
    assert (finding.level, finding.file) == ("warning", "Kim_QTI_task1_2.output.csv")


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
    finding, _ = found(line(5000, lambda row: [*row[:-1], "nan"])(package.members), package.rules)
    assert (finding.where, finding.found) == ("line 5000, tram", "'nan'")
