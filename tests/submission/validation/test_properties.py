"""Valid packages changed at random: what is accepted keeps every rule, judged by rules that are written anew here."""
import csv
import io
import re
import sys
import zipfile
from copy import deepcopy
from decimal import Decimal, InvalidOperation

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from submission.validate import validate
from submission.validation import metadata as check_meta
from submission.validation import output as check_output
from submission.validation.findings import verdict

settings.register_profile("steady", deadline=None, derandomize=True, database=None)
steady = settings.get_profile("steady")

HEADER = ("filename scene_label airport bus metro metro_station park public_square shopping_mall street_pedestrian "
          "street_traffic tram").split()
LABELS = HEADER[2:]
DEVICES = "a b c s1 s2 s3 s4 s5 s6".split()
CLIPS = 6
NUMBER = r"[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,3})?"


class Broken(Exception):
    """A rule that is broken."""


def demand(holds):
    if not holds:
        raise Broken


def keeps(judge, *arguments):
    """Whether a judge finds no rule broken; what trips it up is wrong, too."""
    try:
        judge(*arguments)
    except (Broken, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return False
    return True


def judge_output(data):
    """The rules of the table, with exact numbers."""
    text = data.decode("utf-8").replace("\r\r\n", "\n").replace("\r\n", "\n")
    demand("\r" not in text and max(map(len, text.encode().split(b"\n"))) <= 4096)
    lines = (text[:-1] if text.endswith("\n") else text).split("\n")
    demand(all(line.strip(" \t") for line in lines))
    header, *rows = [next(csv.reader([line], delimiter="\t")) if '"' in line else line.split("\t") for line in lines]
    demand(not any("\t" in cell for row in (header, *rows) for cell in row))
    demand(sorted(header) == sorted(HEADER) and all(len(row) == 12 for row in rows))
    rows = [[row[header.index(name)] for name in HEADER] for row in
            ([*row[:2], *(cell.strip(" ") for cell in row[2:])] for row in rows)]
    demand(all(row[0].isprintable() for row in rows))
    names = [row[0].split("/")[-1] for row in rows]
    demand(sorted(names) == sorted(f"{index}.wav" for index in range(CLIPS)))
    for _, label, *cells in rows:
        demand(len(cells) == 10)
        demand(all(set(cell) <= set("0123456789.eE+-") for cell in cells))
        try:
            values = [Decimal(cell) for cell in cells]
        except InvalidOperation:
            raise Broken from None
        demand(all(0 <= value <= 1 for value in values))
        apart = abs(sum(values) - 1)
        assume(abs(apart - Decimal("0.001")) > Decimal("1e-9"))  # the edge is a matter of rounding
        demand(apart <= Decimal("0.001"))
        # values that a double does not tell apart are equal
        demand(float(values[LABELS.index(label)]) == max(map(float, values)))


def text(value):
    demand(type(value) is str and value.strip() and not any(ord(c) < 32 and c not in "\n\t" for c in value))
    demand(not any(127 <= ord(c) < 160 for c in value))


def as_number(value):
    """A number, also where it is written as text."""
    return float(value) if type(value) is str and re.fullmatch(NUMBER, value.strip()) else value


def number(value, most=sys.float_info.max):
    value = as_number(value)
    demand(type(value) in (int, float) and 0 <= value <= most)


def count(value):
    value = int(value) if type(value) is str and value.strip().isdecimal() and value.isascii() else as_number(value)
    demand(type(value) is int or type(value) is float and value.is_integer())
    demand(0 <= value < 2**63)


def empty(value):
    return value in (None, [], {}) or type(value) is str and not value.strip()


def optional(judge):
    return lambda value: None if empty(value) else judge(value)


def in_range(value):
    """A number that no edition asks for may be anything else, but not a negative number."""
    demand(not (type(as_number(value)) in (int, float) and not 0 <= as_number(value) < sys.maxsize))


def corresponds(author):
    value = author.get("corresponding")
    demand(value in (None, True, False, 0, 1) or type(value) is str and (
        value.strip().lower() in ("true", "yes") or not value.strip()) or value in ([], {}))
    return type(value) is str and bool(value.strip()) or value == 1


def judge_author(author):
    for key in ("lastname", "firstname", "email"):
        text(author[key][0] if type(author[key]) is list and len(author[key]) == 1 else author[key])
    author["affiliation"]
    email = author["email"][0] if type(author["email"]) is list else author["email"]
    name, domain = email.split("@")
    demand(name and len(email.split()) == 1 and email.split()[0] == email)
    demand(all(domain.split(".")) and "." in domain)
    demand(not email.lower().endswith(("@example.org", "@example.com", "@example.net")))


def judge_scores(scores):
    optional(number)(scores["logloss"])
    optional(lambda value: number(value, 100))(scores["accuracy"])


def judge_results(results):
    optional(judge_scores)(results["overall"])
    for group, names in (("class_wise", LABELS), ("device_wise", DEVICES)):
        if not empty(results[group]):
            demand(set(results[group]) == set(names))
            for scores in results[group].values():
                judge_scores(scores)


def judge_submission(submission, label):
    for key in ("label", "name", "abbreviation"):
        text(submission[key])
    demand(submission["label"] == label and len(submission["abbreviation"]) <= 10)
    demand(not submission["name"].endswith(" (demo data)"))
    demand(type(submission["authors"]) is list)
    authors = [author for author in submission["authors"] if not all(map(empty, author.values()))]
    for author in authors:
        judge_author(author)
    demand(sum(map(corresponds, authors)) == 1)


def judge_sources(system):
    """Whatever else is there, data sets as blocks have their three fields."""
    system["source_code"]
    data = system["external_datasets"]
    for item in data if type(data) is list else ():
        if type(item) is dict and not all(map(empty, item.values())):
            demand({"name", "url", "total_audio_length"} <= set(item))
            in_range(item["total_audio_length"])


def judge_meta(meta, label):
    """The rules of 2021's metadata."""
    system = meta["system"]
    judge_submission(meta["submission"], label)
    description, size = system["description"], system["complexity"]
    demand({"input_sampling_rate", "acoustic_features", "machine_learning_method", "embeddings", "data_augmentation",
            "decision_making", "external_data_usage", "ensemble_method_subsystem_count"} <= set(description))
    in_range(description["ensemble_method_subsystem_count"])
    count(size["total_parameters"])
    number(size["model_size"], 128.0000001)
    demand(as_number(size["model_size"]) <= 128)
    non_zero = size.get("total_parameters_non_zero")
    in_range(non_zero)
    if keeps(count, non_zero):
        demand(float(non_zero) <= float(size["total_parameters"]))
        demand(float(non_zero) <= 8 * 1024 * as_number(size["model_size"]))
    judge_sources(system)
    judge_results(meta["results"]["development_dataset"])


CELLS = st.one_of(
    st.sampled_from(["", "nan", "-nan", "inf", "1", "0", "-0", "1.0", "1e0", "1e400", "1e-400", "0.5", "0,5", " 0.1",
                     "0.1 ", "1_0", "0x1", "٠", "-1e-3", "1.0000001", "0.0001", "True", "1e", ".", "+", "e5", "1e5e5",
                     "\0", "tram", "0" * 4000, "0" * 4096]),
    st.floats(0, 1).map(repr), st.floats().map(repr), st.integers(-2, 2).map(str),
    st.text(max_size=5))


NAMES = st.one_of(st.text(max_size=8), st.integers(0, CLIPS).map(lambda index: f"audio/{index}.wav"), st.sampled_from(
    ["", ".wav", "5.wav", "6.wav", "audio/audio/1.wav", "a/../1.wav", "01.wav", "1.WAV", "1.mp3", "/1.wav", "./1.wav",
     "audio\\1.wav", "audio/1.wav ", "1\0.wav", "\x1b1.wav"]))
ZEROS = st.sampled_from(["0", "-0", "0_0", "٠", " 0", "0 ", "0x0", "0e5", "+.0", "0.", "00", "", ".", "nan", "1e-400",
                         "1e-9", "-1e-9", "False", "0,0", "0f", "0j"])


def put_cell(rows, draw):
    row = draw(st.sampled_from(rows))
    if row:
        row[draw(st.integers(0, len(row) - 1))] = draw(CELLS)


def put_name(rows, draw):
    draw(st.sampled_from(rows))[:1] = [draw(NAMES)]


def put_label(rows, draw):
    draw(st.sampled_from(rows))[1:2] = [draw(st.sampled_from([*LABELS, "", "Bus", "beach", " bus"]))]


def put_certainty(rows, draw):
    """One probability of about 1, and the others some sort of nothing."""
    row, place = draw(st.sampled_from(rows[1:] or rows)), draw(st.integers(0, 9))
    row[2:] = ["0"] * 9
    row[1:2] = [LABELS[place]]
    row.insert(2 + place, draw(st.sampled_from(["1", "1.", "1e0", "+1", "1.0000001", "0.9995", "1.0005", "1_0", "١"])))
    row[2 + draw(st.integers(0, 9))] = draw(ZEROS)


def nudge(rows, draw):
    """Change one probability a little, which mostly keeps the rules."""
    row = draw(st.sampled_from(rows[1:] or rows))
    place = draw(st.integers(2, 11))
    if len(row) == 12:
        try:
            row[place] = repr(float(row[place]) + draw(st.floats(-0.002, 0.002)))
        except ValueError:
            row[place] = "0"


def swap_rows(rows, draw):
    first, second = (draw(st.integers(0, len(rows) - 1)) for _ in range(2))
    rows[first], rows[second] = rows[second], rows[first]


def swap_cells(rows, draw):
    row = draw(st.sampled_from(rows))
    if row:
        first, second = (draw(st.integers(0, len(row) - 1)) for _ in range(2))
        row[first], row[second] = row[second], row[first]


def repeat_row(rows, draw):
    rows.insert(draw(st.integers(0, len(rows))), list(draw(st.sampled_from(rows))))


def drop_row(rows, draw):
    if len(rows) > 1:
        del rows[draw(st.integers(0, len(rows) - 1))]


def drop_cell(rows, draw):
    row = draw(st.sampled_from(rows))
    if row:
        del row[draw(st.integers(0, len(row) - 1))]


def add_cell(rows, draw):
    draw(st.sampled_from(rows)).append(draw(CELLS))


def swap_columns(rows, draw):
    first, second = (draw(st.integers(0, 11)) for _ in range(2))
    for row in rows:
        if len(row) == 12:
            row[first], row[second] = row[second], row[first]


TABLE_CHANGES = (put_cell, put_name, put_label, put_certainty, nudge, swap_rows, swap_cells, repeat_row, drop_row,
                 drop_cell, add_cell, swap_columns)


@st.composite
def changed_outputs(draw, data, first):
    rows = [row.split("\t") for row in data.decode().removesuffix("\n").split("\n")]
    for change in (first, *draw(st.lists(st.sampled_from(TABLE_CHANGES), max_size=1))):
        change(rows, draw)
    end = draw(st.sampled_from(["\n", "\n", "\n", "\n", "", "\r\n", "\n\n"]))
    return ("\n".join("\t".join(row) for row in rows) + end).encode("utf-8", "surrogatepass")


@pytest.fixture(scope="module")
def package(golden):
    return golden("2021", CLIPS)


@pytest.mark.parametrize("change", TABLE_CHANGES, ids=lambda change: change.__name__)
@settings(steady, max_examples=50)
@given(data=st.data())
def test_outputs(package, change, data):
    changed = data.draw(changed_outputs(package.members[package.output], change))
    _, findings = check_output.check(changed, "x", package.rules)
    assert (verdict(findings) == "valid") == keeps(judge_output, changed)


@settings(steady, max_examples=100)
@given(places=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=2), cut=st.integers(0, 4000))
def test_bytes_of_an_output(package, places, cut):
    changed = bytearray(package.members[package.output])
    for place, byte in places:
        changed[place % len(changed)] = byte
    changed = bytes(changed[:cut] if cut < len(changed) else changed)
    _, findings = check_output.check(changed, "x", package.rules)
    assert (verdict(findings) == "valid") == keeps(judge_output, changed)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 200), st.integers(), st.floats(), st.floats(0, 130), st.text(max_size=12),
    st.sampled_from(["", " ", "a@b.test", "a@b", "me@example.org", "x (demo data)", "a\0", "a\nb", "\x85", "8", [], {},
                     [1], ["a"], {"a": 1}, {"logloss": 1, "accuracy": 50.5}, {"logloss": 1}, 10**400, 1e308, 128.0,
                     128.1, 100, 101]),
    st.dates())


# close to what is right, on both sides
NEAR = {
    ("submission", "label"): st.sampled_from(["Kim_QTI_task1a_1", "Kim_QTI_task1a_2", "kim_QTI_task1a_1"]),
    ("submission", "abbreviation"): st.text("ab", min_size=8, max_size=13),
    ("submission", "authors", 0, "corresponding"): st.sampled_from([True, False, None, 1, "true"]),
    ("submission", "authors", 1, "corresponding"): st.sampled_from([True, False, None, 1, "true"]),
    ("submission", "authors", 0, "email"): st.from_regex(r"[ab. @]{1,3}@[ab. @]{1,4}\.[ab]{0,2}", fullmatch=True),
    ("system", "complexity", "total_parameters"): st.sampled_from([22_695, 22_000, 21_999, 20_000, True, 22_695.0]),
    ("system", "complexity", "total_parameters_non_zero"): st.sampled_from([22_695, 22_696, 30_000, 0, True, 9.0]),
    ("system", "complexity", "model_size"): st.sampled_from([128, 128.001, 2.5, 2.686, 22_000 / 8192, 0, True, 1e3]),
    ("results", "development_dataset", "overall", "accuracy"): st.sampled_from([100, 100.0, 100.001, -1e-9, 0, True]),
    ("results", "development_dataset", "device_wise", "a", "logloss"): st.sampled_from([0, -1e-9, 1e308, True, "1"]),
}


def places(node, path=()):
    """Paths of everything in a tree."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


@st.composite
def changed_trees(draw, tree):
    tree = deepcopy(tree)
    for _ in range(draw(st.integers(1, 2))):
        there = sorted(places(tree), key=str)
        change = draw(st.sampled_from(["near", "near", "put", "put", "drop", "rename", "again"]))
        near = sorted((path for path in NEAR if path in there or path[:-1] in there), key=str)
        path = draw(st.sampled_from(near if change == "near" and near else there))
        *above, key = path
        node = tree
        for part in above:
            node = node[part]
        if change in ("near", "put"):
            value = deepcopy(draw(NEAR.get(path, VALUES) if change == "near" else VALUES))
            if isinstance(node, dict) or isinstance(node, list) and key in range(len(node)):
                node[key] = value
        elif change == "drop":
            del node[key]
        elif change == "rename":
            name = draw(st.sampled_from(["bus", "beach", "a", "b", "corresponding", "name", "x", 1, None, True]))
            value = node.pop(key)
            node.append(value) if isinstance(node, list) else node.update({name: value})
        elif isinstance(node, list):
            node.append(node[key])
        if not tree:
            break
    return tree


@settings(steady, max_examples=300)
@given(data=st.data())
def test_metadata(package, data):
    tree = data.draw(changed_trees(yaml.load(package.members[package.meta], yaml.CSafeLoader)))
    findings = check_meta.check(tree, "x", package.label, LABELS, package.rules)
    assert (verdict(findings) == "valid") == keeps(judge_meta, tree, package.label)


@settings(steady, max_examples=100)
@given(data=st.data())
def test_bytes_of_the_metadata(package, data):
    changed = bytearray(package.members[package.meta])
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(changed)))
        end = min(start + data.draw(st.integers(0, 40)), len(changed))
        changed[start:end] = data.draw(st.one_of(st.binary(max_size=4), st.sampled_from(
            [b"\n", b": ", b"- ", b"  ", b"*a", b"&a ", b"!!binary ", b"|", b"'", b"{", b"[", b"#", b"\t", b"? "])))
    meta, findings = check_meta.read(bytes(changed), "x")
    if meta is None:
        assert verdict(findings) == "invalid"
        return
    findings = check_meta.check(meta, "x", package.label, LABELS, package.rules)
    assert (verdict(findings) == "valid") == keeps(judge_meta, meta, package.label)


def judge_names(names, package):
    """The rules of the files: those of the system once, reports, and files that the organisers skip or only name."""
    demand({package.output, package.meta} <= set(names) and len(set(names)) == len(names))
    for name in names:
        *folders, base = name.removesuffix("/").split("/")
        demand(not {"", ".", ".."}.intersection((*folders, base)) and "\\" not in name)
        demand(name.isprintable() and ":" not in name.split("/")[0])
        if name.endswith(("/", ".pdf")) or "task1" not in name or name in (package.output, package.meta):
            continue
        demand(len(folders) == 3 and folders[2] == package.label)
        demand(".output.csv" not in base and ".meta.yaml" not in base)


@st.composite
def changed_names(draw, package):
    names = [package.output, package.meta]
    part = st.sampled_from(["", "/", "..", ".", "x", ".pdf", ".output.csv", ".meta.yaml", "task1", "Kim_QTI_task1a_1",
                            "Kim_QTI_task1a_2", "\\", "C:", "\x1b", "\n", " ", "ä"])
    for _ in range(draw(st.integers(1, 2))):
        change = draw(st.sampled_from(["add", "again", "drop", "insert", "cut"]))
        name = draw(st.sampled_from(names or ["x"]))
        place = draw(st.integers(0, len(name)))
        if change in ("drop", "insert", "cut") and name in names:
            names.remove(name)
        names += {"add": ["/".join(draw(st.lists(part, min_size=1, max_size=4)))], "again": [name], "drop": [],
                  "insert": [name[:place] + draw(part) + name[place:]],
                  "cut": [name[:place] + name[place + 1:]]}[change]
    return names


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(steady, max_examples=120)
@given(data=st.data())
def test_names(package, tmp_path_factory, data):
    names = data.draw(changed_names(package))
    path = tmp_path_factory.getbasetemp() / "names.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name in names:
            info = zipfile.ZipInfo()
            info.filename = name
            opened.writestr(info, package.members.get(name, b"%PDF-"))
    assert (verdict(validate(path, package.rules)) == "valid") == keeps(judge_names, names, package)


@settings(steady, max_examples=100)
@given(data=st.data())
def test_bytes_of_a_zip(package, write_zip, tmp_path_factory, data):
    """Whatever is changed, it is told and not raised; what is still accepted is read by zipfile as it was."""
    path = write_zip(tmp_path_factory.getbasetemp() / "bytes.zip", package.members)
    changed = bytearray(path.read_bytes())
    headers = [place for place in range(len(changed)) if changed[place:place + 2] == b"PK"]
    for _ in range(data.draw(st.integers(1, 3))):
        near = data.draw(st.sampled_from(headers)) + data.draw(st.integers(0, 60))
        place = data.draw(st.sampled_from([near, data.draw(st.integers(0, len(changed) - 1))])) % len(changed)
        changed[place] = data.draw(st.integers(0, 255))
    path.write_bytes(changed[:data.draw(st.sampled_from([None, None, None, data.draw(st.integers(0, len(changed)))]))])
    if verdict(validate(path, package.rules)) == "valid":
        with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as opened:
            assert {name: opened.read(name) for name in opened.namelist()} == package.members
