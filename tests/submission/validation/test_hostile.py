"""Packages that are made to do harm: refused for what they are, in bounded time and memory."""
import copy
import io
import json
import os
import stat
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from submission.validate import main, validate
from submission.validation import archive
from task1a.errors import InputError

REPOSITORY = Path(__file__).parents[3]
LABEL = "Kim_QTI_task1a_1"
INSIDE = f"Kim_QTI_task1/task1/{LABEL}"
CSV, YAML = f"{INSIDE}/{LABEL}.output.csv", f"{INSIDE}/{LABEL}.meta.yaml"
SECONDS, MEGABYTES = 20, 300


@pytest.fixture
def hostile(tmp_path, golden):
    """A function that adds a member to a valid zip, whose header is changed, and tells what is found there."""

    def write(change=lambda info: None, name=f"{INSIDE}/report.pdf", content=b"%PDF-target"):
        path, package = tmp_path / "p.zip", golden()
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            for member, data in package.members.items():
                opened.writestr(member, data)
            info = zipfile.ZipInfo("placeholder")
            change(info)
            info.filename = name
            opened.writestr(info, content)
            change(opened.infolist()[-1])
        return [(finding.level, finding.file, finding.found) for finding in validate(path, package.rules)]

    return write


@pytest.mark.parametrize("name", ["../a.pdf", "/a.pdf", "b/../../a.pdf", "C:/a.pdf", "C:a.pdf", "b\\a.pdf", "b//a.pdf",
                                  "./a.pdf", "..", "/", "//server/share/a.pdf"])
def test_path_outside_the_package(hostile, name):
    [(level, file, told)] = hostile(name=name)
    assert (level, file) == ("error", name)
    assert told == f"the path {name!r}"


def test_names_that_do_harm_on_their_own(hostile):
    assert hostile(name="a\x1b[2J.pdf") == [("error", "a\x1b[2J.pdf", r"the name 'a\x1b[2J.pdf'")]
    assert hostile(name="a\u202efdp.exe") == [("error", "a\u202efdp.exe", r"the name 'a\u202efdp.exe'")]
    [(level, _, told)] = hostile(name="x" * 60_000)
    assert (level, told) == ("warning", "1 file of no system, which the organisers skip")


@pytest.mark.parametrize("place", [b"\0.pdf", b"a\0b/c", bytes(5)])
def test_nul_in_a_name(tmp_path, golden, write_zip, place):
    path = write_zip(tmp_path / "p.zip", golden().members | {"QQQQQ": b""})
    path.write_bytes(path.read_bytes().replace(b"QQQQQ", place))  # in both headers
    [finding] = validate(path, golden().rules)
    assert finding.found == f"the name {place.decode()!r}"


@pytest.mark.parametrize(("change", "told"), [
    (lambda info: setattr(info, "external_attr", (stat.S_IFLNK | 0o777) << 16), "a link or special file"),
    (lambda info: setattr(info, "external_attr", (stat.S_IFIFO | 0o777) << 16), "a link or special file"),
    (lambda info: setattr(info, "compress_type", zipfile.ZIP_LZMA), "compression method 14"),
])
def test_kind_of_member(hostile, change, told):
    assert hostile(change) == [("error", f"{INSIDE}/report.pdf", told)]


def patched(path, offset, value, size):
    """Change a number in the last entry of a zip's table of contents."""
    data = bytearray(path.read_bytes())
    start = data.rfind(b"PK\x01\x02") + offset
    data[start:start + size] = value.to_bytes(size, "little")
    path.write_bytes(data)


@pytest.mark.parametrize(("offset", "value", "size", "told"), [
    (8, 1, 2, "an encrypted member"),
    (10, 99, 2, "compression method 99"),
    (24, 0xFFFFFFFE, 4, "3 files of 4,294,9"),
    (16, 0, 4, "a header that contradicts the table of contents"),
    (20, 0x7FFFFFFF, 4, "overlapping members"),
    (42, 0, 4, "overlapping members"),
    (42, 0x7FFFFFFF, 4, "overlapping members"),
    (6, 0xFFFF, 2, "zip file version"),
])
def test_what_a_header_claims(hostile, tmp_path, golden, offset, value, size, told):
    hostile()
    patched(tmp_path / "p.zip", offset, value, size)
    [finding] = validate(tmp_path / "p.zip", golden().rules)
    assert finding.level == "error"
    assert finding.found.startswith(told)


def test_headers_that_contradict_the_table_of_contents(tmp_path, golden, write_zip):
    package = golden()
    path = write_zip(tmp_path / "p.zip", package.members)
    whole = path.read_bytes()
    for place in range(6, 30):  # of the first member, all that its own header says but the signature and the version
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1:])
        findings = validate(path, package.rules)
        # its time may be another one, and a flag that no program heeds
        assert findings or place in (6, 7, 10, 11, 12, 13), place


def set_bytes(place, value):
    """A function that overwrites bytes of a zip, at a place or where a text occurs first."""
    def change(data):
        start = place(data) if callable(place) else data.index(place)
        return data[:start] + value + data[start + len(value):]
    return change


def behind_end(offset):
    return lambda data: data.rindex(b"PK\5\6") + offset


def hidden(data):
    """A member between the others that the table of contents does not list."""
    start, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    member = b"PK\3\4" + bytes(22) + b"\1\0\0\0" + b"x"
    return data[:start] + member + data[start:end + 16] + struct.pack("<L", start + len(member)) + data[end + 20:]


def zip64(count):
    """A function that moves what the end of a zip says to the wider records."""
    def change(data):
        start, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
        record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, end - start, start)
        return (data[:end] + record + struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
                + data[end:end + 8] + b"\xff" * 12 + bytes(2))
    return change


@pytest.mark.parametrize("change", [
    set_bytes(behind_end(8), bytes(4)), set_bytes(behind_end(8), bytes(2)), set_bytes(behind_end(10), b"\7"),
    set_bytes(behind_end(4), b"\1"), set_bytes(behind_end(6), b"\1"), set_bytes(lambda data: 6, b"\1"),
    set_bytes(lambda data: data.index(b"PK\1\2") + 34, b"\1"), set_bytes(INSIDE.encode(), b"X"),
    lambda data: b"#!" + data, lambda data: data + b"\n", hidden, zip64(0),
])
def test_zips_that_programs_read_differently(tmp_path, golden, write_zip, change):
    path = write_zip(tmp_path / "p.zip", golden().members)
    path.write_bytes(change(path.read_bytes()))
    [finding] = validate(path, golden().rules)
    assert (finding.level, "contradicts the table of contents" in finding.found) == ("error", True)
    path.write_bytes(zip64(2)(write_zip(tmp_path / "p.zip", golden().members).read_bytes()))
    assert validate(path, golden().rules) == ()


@pytest.mark.parametrize(("plain", "other", "read"), [
    ("a.pdf", "a.pdf", True), ("M\u2554ller.pdf", "Müller.pdf", True), ("a.pdf", "b.pdf", False),
    ("a.pdf", "ä.pdf", False), ("a.pdf", "../a.pdf", False)])
def test_a_second_name(hostile, plain, other, read):
    plain, other = f"{INSIDE}/{plain}", f"{INSIDE}/{other}"
    field = struct.pack("<BL", 1, zlib.crc32(plain.encode())) + other.encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    told = hostile(lambda info: setattr(info, "extra", extra), plain)
    assert [found for *_, found in told] == ([] if read else ["a header that contradicts the table of contents"])


@pytest.mark.parametrize(("name", "attributes", "content", "told"), [
    ("x/", 0, b"", []), ("x/", 0, b"x", ["a folder with content"]), ("x.pdf", 0x20, b"%PDF-", []),
    ("x.pdf", 0x10, b"%PDF-", ["a file marked as a folder"]),
    ("x.pdf", stat.S_IFDIR << 16, b"%PDF-", ["a file marked as a folder"])])
def test_folder_or_file(hostile, name, attributes, content, told):
    findings = hostile(lambda info: setattr(info, "external_attr", attributes), f"{INSIDE}/{name}", content)
    assert [found for *_, found in findings] == told


def test_a_member_that_is_longer_than_it_says(tmp_path, golden):
    package = golden()
    content = package.members[CSV] + b"audio/99.wav\ttram\n"
    with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(YAML, package.members[YAML])
        opened.writestr(CSV, content)
    path = tmp_path / "p.zip"
    for old, new in ((len(content), len(package.members[CSV])),
                     (zlib.crc32(content), zlib.crc32(package.members[CSV]))):
        path.write_bytes(path.read_bytes().replace(struct.pack("<L", old), struct.pack("<L", new)))
    findings = validate(path, package.rules)
    assert [(finding.level, finding.file) for finding in findings] == [("error", CSV)]


def test_zips_of_every_origin_are_read(tmp_path, golden):
    package = golden()
    for zip64 in (False, True):
        with zipfile.ZipFile(tmp_path / "p.zip", "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in package.members.items():
                with opened.open(name, "w", force_zip64=zip64) as member:
                    member.write(content)
        assert validate(tmp_path / "p.zip", package.rules) == ()
        with (tmp_path / "p.zip").open("wb") as file, zipfile.ZipFile(Stream(file), "w") as opened:
            for name, content in package.members.items():  # sizes and checksums follow the members
                with opened.open(name, "w", force_zip64=zip64) as member:
                    member.write(content)
        assert validate(tmp_path / "p.zip", package.rules) == ()


class Stream(io.RawIOBase):
    """What a zip is written to that cannot go back in it, such as a pipe."""

    def __init__(self, file):
        self.file = file

    def writable(self):
        return True

    def write(self, content):
        return self.file.write(content)


def test_a_member_twice(tmp_path, golden):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        for name in (*golden().members, YAML):
            opened.writestr(name, golden().members[name])
    [finding] = validate(tmp_path / "p.zip", golden().rules)
    assert (finding.file, finding.found) == (YAML, "the same name again")


def test_a_damaged_member(tmp_path, golden):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as opened:
        for name, content in golden().members.items():
            opened.writestr(name, content)
    path = tmp_path / "p.zip"
    path.write_bytes(path.read_bytes().replace(b"audio/7.wav", b"audio/8.wav"))
    [finding] = validate(path, golden().rules)
    assert finding.file == CSV
    assert "Bad CRC-32" in finding.found


def test_a_file_in_the_place_of_a_folder(hostile):
    assert hostile(name=f"{INSIDE}/{LABEL}.output.csv/x.csv")[0][2] == "a file that does not belong here"


def test_overlapping_members(tmp_path, golden, write_zip):
    path = write_zip(tmp_path / "p.zip", golden().members)
    with zipfile.ZipFile(path, "a") as opened:
        for number in range(3):
            again = copy.copy(opened.getinfo(CSV))
            again.filename = again.orig_filename = f"{CSV}{number}"
            opened.filelist.append(again)
            opened._didModify = True
    [finding] = validate(path, golden().rules)
    assert finding.found == "overlapping members, as in a zip bomb"


def test_more_members_than_a_package_has(tmp_path, golden, write_zip):
    path = write_zip(tmp_path / "p.zip", {f"{number}": b"" for number in range(1001)})
    assert [finding.found for finding in validate(path, golden().rules)] == ["1,001 files of 0 bytes"]
    path = write_zip(tmp_path / "p.zip", {f"{number:0100}": b"" for number in range(8000)})
    [finding] = validate(path, golden().rules)
    assert finding.found.startswith("its table of contents has 1,168,000 bytes")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 junk", b"PK\x05\x06" + bytes(18), b"PK\x05\x06" + b"\xff" * 18,
                                  bytes(range(256)) * 400])
def test_no_zip(tmp_path, golden, data):
    (tmp_path / "p.zip").write_bytes(data)
    findings = validate(tmp_path / "p.zip", golden().rules)
    assert [finding.level for finding in findings] == ["error"]


def test_folders(tmp_path, golden):
    package = golden()
    for name, content in package.members.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    folder = tmp_path / INSIDE
    assert validate(folder.parent, package.rules) == ()
    assert validate(tmp_path / "Kim_QTI_task1", package.rules) == ()  # the unpacked zip
    with pytest.raises(InputError, match="no such zip or folder"):
        validate(tmp_path / "none.zip")
    try:
        (folder / "link.pdf").symlink_to(tmp_path / YAML)
    except OSError:
        pytest.skip("no symbolic links here")
    assert [finding.found for finding in validate(folder.parent, package.rules)] == ["a link or special file"]
    (folder / "link.pdf").unlink()
    os.mkfifo(folder / "report.pdf")
    assert [finding.found for finding in validate(folder.parent, package.rules)] == ["a link or special file"]


def test_a_folder_that_is_none_of_a_package(tmp_path, golden, monkeypatch):
    for number in range(4):
        (tmp_path / f"{number}").write_bytes(b"0" * 10)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    [finding] = validate(tmp_path, golden().rules)
    assert finding.found == "4 files of 40 bytes"


BOMBS = {
    "laughs": "".join(["a0: &a0 [x]\n", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))]),
    "nested lists": "[" * 60_000,
    "nested blocks": "".join(f"{' ' * depth}a:\n" for depth in range(340)),
    "nested dashes": "- " * 30_000,
    "nested questions": "? " * 30_000,
    "sexagesimal": f"a: 1{':59' * 20_000}",
    "hexadecimal": f"a: 0x{'f' * 60_000}",
    "decimal": f"a: {'9' * 60_000}",
    "float": f"a: 1.{'9' * 60_000}e+{'9' * 3_000}",
    "merges": "a: {<<: [" + "{a: 1}, " * 3_000 + "]}",
    "many keys": "".join(f"k{n}: 1\n" for n in range(3_000)),
    "many wrong authors": "submission: {authors: [" + "1, " * 10_000 + "]}",
    "many classes": "results: {development_dataset: {class_wise: {" + "".join(f"{n}: 1," for n in range(4_000)) + "}}}",
    "escapes": 'a: "' + "\\x1b" * 15_000 + '"',
    "quotes": "a: " + "'" * 60_000,
    "anchors": "- &a x\n" * 9_000,
    "directives": "%TAG ! x\n" * 7_000 + "---\na: 1\n",
    "comments": "#\n" * 30_000,
    "colons": "a: " * 20_000,
    "control characters": "a: \x1b[2J",
}


def tables():
    """Outputs that are large, or expensive to look at."""
    header = "\t".join(("filename", "scene_label", *"abcdefghij")).encode() + b"\n"
    row = b"audio/0.wav\ta\t" + b"\t".join([b"0.1"] * 10) + b"\n"
    return {
        "nothing but NUL": bytes(30_000_000),
        "one line of tabs": b"\t" * 30_000_000,
        "one row of cells": header + b"ab\t" * 10_000_000,
        "a thousand rows of cells": header + (b"ab\t" * 10_000 + b"\n") * 1_000,
        "one long name": header + b"x" * 30_000_000 + b".wav\ta\t1" + b"\t0" * 9,
        "one long number": header + b"audio/0.wav\ta\t0." + b"1" * 30_000_000 + b"\t0.1" * 9,
        "lines of tabs": (b"\t" * 4000 + b"\n") * 7_000,
        "empty lines": header + b"\n" * 100_000,
        "one clip": header + row * 100_000,
        "digits": header + (b"audio/0.wav\ta\t" + b"1" * 3_900 + b"x" + b"\t0" * 9 + b"\n") * 7_000,
        "astral": header + "\U0001f600".encode() * 7_000_000,
        "a header of labels": b"filename\tscene_label\t" + b"\t".join(b"%d" % n for n in range(3_000_000)),
        "carriage returns": header + b"\r" * 30_000_000,
    }


def zip_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened:
        for name, content in members.items():
            opened.writestr(name, content)


def one_stream_for_all(path):
    """Write a zip whose members say that they are small, and unpack to 100 MB."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    stream = b"".join([*(packer.compress(bytes(1_000_000)) for _ in range(100)), packer.flush()])
    with zipfile.ZipFile(path, "w") as opened:
        for name in (CSV, YAML):
            info = zipfile.ZipInfo(name)
            opened.writestr(info, stream)
            info.compress_type, info.file_size, info.CRC = zipfile.ZIP_DEFLATED, 60_000, zlib.crc32(bytes(60_000))


# the process looks at all of them, and tells what it found, how long each took, and its own peak memory
LOOK = """
import dataclasses, json, sys, time
from pathlib import Path
from submission.rules import TASK1A_2021
from submission.validate import validate
rules, told = dataclasses.replace(TASK1A_2021, clips=12), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    started = time.process_time()
    findings = validate(path, rules)
    told[path.stem] = {"seconds": time.process_time() - started, "longest": max(map(len, map(str, findings))),
                       "levels": [finding.level for finding in findings], "files": sorted({f.file for f in findings})}
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(json.dumps([told, int(peak.split()[1]) / 1024]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory where Linux tells it")
def test_time_and_memory(tmp_path, golden):
    members = golden().members
    for name, text in BOMBS.items():
        zip_of(tmp_path / f"{name}.zip", members | {YAML: text.encode()})
    for name, data in tables().items():
        zip_of(tmp_path / f"{name}.zip", members | {CSV: data})
    zip_of(tmp_path / "high ratio.zip", members | {CSV: bytes(200_000_000)})
    one_stream_for_all(tmp_path / "more than it says.zip")
    done = subprocess.run([sys.executable, "-c", LOOK, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True,
                          check=True)
    told, megabytes = json.loads(done.stdout)
    assert len(told) == len(BOMBS) + len(tables()) + 2
    for name, look in told.items():
        assert "error" in look["levels"], name
        assert look["seconds"] < SECONDS, name
        assert look["longest"] < 2_000, name
        if name in BOMBS:
            assert look["files"] == [f"{LABEL}.meta.yaml"], name
    assert megabytes < MEGABYTES


def test_nothing_that_a_terminal_obeys_is_printed(tmp_path, golden, write_zip, capsys):
    escape = "\x1b]0;x\x07\r\x9b2J\u202e\n"
    package = golden()
    output = package.members[CSV].decode()
    members = package.members | {
        f"{INSIDE}/{escape}": b"", f"{escape}/x": b"",
        CSV: output.replace("tram", f"tr{escape.strip()}am").replace("audio/3.wav", f"{escape.strip()}3.wav").encode(),
        YAML: package.members[YAML] + b'"\\x9b": {}\n"\\e[2J\\n": 1\nx: {"\\e[3J": 1}\n'}
    assert main([str(write_zip(tmp_path / "p.zip", members))]) == 1
    told = capsys.readouterr().out
    assert "\\x1b" in told
    assert [c for c in told if not c.isprintable() and c != "\n"] == []
    assert all(line.startswith(("error: ", "NOT SUB", "warning: ", "invalid package: ")) for line in told.splitlines())
