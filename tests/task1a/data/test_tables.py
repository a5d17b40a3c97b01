"""One table of what can be wrong with a table."""
import os

import pytest

from task1a.data import tables
from task1a.data.tables import read_table
from task1a.errors import InputError

GOOD = b"filename\tscene_label\tnote\n0.wav\tbus\t\n1.wav\tpark\tx\n"
COLUMNS = ("filename", "scene_label")


def read(path):
    return read_table(path, COLUMNS, "a table of clips")


@pytest.mark.parametrize("content", [
    GOOD, GOOD.replace(b"\n", b"\r\n"), GOOD.replace(b"\n", b"\r"), b"\xef\xbb\xbf" + GOOD, GOOD + b"\n\n\n",
    GOOD + b"\t\t\n", GOOD + b"   ", GOOD + b"\t\n\n \t \n", GOOD.replace(b"\n", b"\r\n") + b"\t\t\r\n",
    GOOD.removesuffix(b"\n"), GOOD.replace(b"bus", b'"bus"').replace(b"filename", b'"filename"'),
    b"\n".join(b"\t".join(b'"%s"' % field for field in line.split(b"\t")) for line in GOOD.splitlines())])
def test_the_same_table_in_other_writing(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    table = read(tmp_path / "table.csv")
    assert list(table.columns) == ["filename", "scene_label", "note"]
    assert table.values.tolist() == [["0.wav", "bus", ""], ["1.wav", "park", "x"]]


@pytest.mark.parametrize("text", ["Zürich", "東京-1000", "a b", "N/A", "nan", "1e5", "-", "x" * 1000])
def test_plain_text(text):
    assert tables.text_fault(text) == ""


@pytest.mark.parametrize(("old", "new", "message"), [
    (GOOD, b"", "the file is empty"),
    (GOOD, b"\xef\xbb\xbf", "the file is empty"),
    (GOOD, b"\n\r\n\r", "the file is empty"),
    (GOOD, bytes(1000), "no column 'filename'"),
    (GOOD, GOOD.decode().encode("utf-16"), "not UTF-8 text (byte 1)"),
    (GOOD, GOOD.decode().encode("utf-16-le"), "no column 'filename' (the first line is 'f\\x00i\\x00l"),
    (b"park", "pärk".encode("latin-1"), "not UTF-8 text (byte 45)"),
    (b"1.wav", b"\xed\xa0\x80.wav", "not UTF-8 text"),  # a surrogate
    (b"filename\tscene_label\t", b"filename,scene_label,",
     "no column 'filename' (the first line is 'filename,scene_label,note'); it must be a table of clips"),
    (b"\tscene_label", b"\tscene", "no column 'scene_label'"),
    (b"filename", b"filename ", "no column 'filename'"),
    (b"filename", b"\xef\xbb\xbf\xef\xbb\xbffilename", "no column 'filename'"),
    (b"\tnote", b"\tfilename", "two columns are named 'filename'"),
    (b"\tnote", b"\t", "line 1: the name of column 3, '', is blank"),
    (b"\tnote", b"\tno\0te", "line 1: the name of column 3, 'no\\x00te', holds the character '\\x00'"),
    (b"\tnote", b"\tx" * 2000, "2,002 columns; at most 1,024"),
    (b"\n0.wav\tbus\t\n1.wav\tpark\tx", b"", "lists no clip"),
    (b"0.wav\tbus\t\n", b"0.wav\tbus\n", "line 2: 2 fields where the header has 3"),
    (b"1.wav\t", b"1.wav\t\t", "line 3: 4 fields where the header has 3"),
    (b"1.wav", b"1.wav" + b"\tx" * 100_000, "line 3: 100,003 fields"),
    (b"\n1.wav", b"\n\n1.wav", "line 3: 1 fields where the header has 3"),
    (b"\n1.wav", b"\n\t\t\n1.wav", "line 3: filename '' is blank"),
    (b"\n0.wav\tbus\t\n1.wav\tpark\tx", b"\n\t\t", "lists no clip"),
    (b"bus", b"", "line 2: scene_label '' is blank"),
    (b"bus", b"   ", "line 2: scene_label '   ' is blank"),
    (b"bus", "\xa0".encode(), "line 2: scene_label '\\xa0' is blank"),
    (b"bus", b" bus", "line 2: scene_label ' bus' begins or ends with a space"),
    (b"park", b"park ", "line 3: scene_label 'park ' begins or ends with a space"),
    (b"1.wav", b"1\0.wav", "line 3: filename '1\\x00.wav' holds the character '\\x00', which cannot be printed"),
    (b"1.wav", b"\x1b[2J1.wav", "holds the character '\\x1b'"),
    (b"1.wav", b"1\x0b.wav", "holds the character '\\x0b'"),
    (b"1.wav", "1\x85.wav".encode(), "holds the character '\\x85'"),
    (b"1.wav", "1\u2028.wav".encode(), "holds the character '\\u2028'"),
    (b"1.wav", "1\u200b.wav".encode(), "holds the character '\\u200b'"),
    (b"1.wav", "1\u202e.wav".encode(), "holds the character '\\u202e'"),
    (b"1.wav", b'"1.wav', "line 3: filename '\"1.wav' holds a quotation mark"),
    (b"1.wav", b'1".wav', "line 3: filename '1\".wav' holds a quotation mark"),
    (b"1.wav", b'""', "line 3: filename '' is blank"),
    (b"1.wav", b"x" * 1001, "has 1,001 characters; at most 1,000"),
])
def test_malformed_table(tmp_path, old, new, message):
    assert old in GOOD
    (tmp_path / "table.csv").write_bytes(GOOD.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read(tmp_path / "table.csv")
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'table.csv'}: ") and message in said
    assert said.isprintable() and len(said) < 600


@pytest.mark.skipif(os.name == "nt", reason="special files")
@pytest.mark.parametrize(("make", "message"), [
    (lambda path: None, "no such file; it must be a table of clips"),
    (os.mkfifo if hasattr(os, "mkfifo") else None, "cannot be read (not a regular file)"),
    (os.mkdir, "cannot be read (not a regular file)"),
    (lambda path: path.symlink_to("/dev/zero"), "cannot be read (not a regular file)"),
    (lambda path: path.symlink_to(path.name), "cannot be read (Too many levels of symbolic links)"),
    (lambda path: path.touch() or os.truncate(path, 1 << 40), "more than 134,217,728 bytes"),
], ids=["missing", "FIFO", "folder", "device", "loop", "too large"])
def test_no_file_to_read(tmp_path, make, message):
    make(tmp_path / "table.csv")
    with pytest.raises(InputError) as error:
        read(tmp_path / "table.csv")
    assert message in str(error.value)


@pytest.mark.parametrize(("name", "message"), [("x" * 300, "File name too long"), ("a\0b", "not a possible file name")])
def test_impossible_path(tmp_path, name, message):
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert message in str(error.value)
