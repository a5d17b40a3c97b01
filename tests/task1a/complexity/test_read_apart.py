"""The process that reads the files of other projects, and pickles that would harm it."""
import io
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from task1a.complexity import model_files
from task1a.complexity.model_files import read_tensors, stored_tensors
from task1a.errors import InputError


def refusal(path):
    with pytest.raises(InputError) as raised:
        stored_tensors(path)
    said = str(raised.value)
    assert str(path) in said and "\n" not in said and len(said) < 500
    return said


@pytest.mark.parametrize("name", ["m.pt", "m.h5"])
def test_read_in_another_process(tmp_path, monkeypatch, name):
    (tmp_path / "json.py").write_text("raise SystemExit('a module of the current folder')")
    if name == "m.pt":
        torch.save({"state_dict": {"w": torch.ones(3), "ä\ud800": torch.zeros(2, 1)}}, tmp_path / name)
    else:
        h5py.File(tmp_path / name, "w").create_dataset("w", data=np.ones(3))
    monkeypatch.chdir(tmp_path)
    assert stored_tensors(name) == read_tensors(Path(name))
    (tmp_path / name).write_bytes(b"damaged")
    assert refusal(name).startswith(f"{name}: not a readable ")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_process_that_crashes(tmp_path, monkeypatch):
    # a reader that ends its process, as the HDF5 library can do for a damaged file
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text("#!/bin/sh\nkill -SEGV $$\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "m.h5").write_bytes(b"")
    assert "damaged; the process that read it ended with status -11" in refusal(tmp_path / "m.h5")


# --- pickles ----------------------------------------------------------------------------------------------------------

# in the pickle of ten values: their number in the storage, then their shape and stride
STORED, SHAPE, STRIDE, BILLIONS = b"cpuq\x06%s", b"K\x00%s\x85q\x08", b"K%c", b"J\xff\xff\xff\x7f"


@pytest.mark.parametrize(("values", "compression", "changes", "said"), [
    # a storage of billions of values that is not there
    (10, zipfile.ZIP_STORED, {STORED % b"K\x0a": STORED % BILLIONS, SHAPE % b"K\x0a": SHAPE % BILLIONS}, "m.pt"),
    # the same value billions of times
    (10, zipfile.ZIP_STORED, {SHAPE % b"K\x0a" + STRIDE % 1: SHAPE % BILLIONS + STRIDE % 0}, "2,147,483,647 values"),
    (1_000_000, zipfile.ZIP_DEFLATED, {}, "compressed"),
])
def test_archives_that_lie(tmp_path, values, compression, changes, said):
    path = tmp_path / "m.pt"
    torch.save({"w": torch.zeros(values, dtype=torch.int64)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            for old, new in changes.items() if name.endswith(".pkl") else ():
                assert old in data
                data = data.replace(old, new)
            archive.writestr(name, data)
    assert path.stat().st_size < 100_000
    with pytest.raises(InputError, match=said):
        read_tensors(path)


def pickled(content, **others):
    """An archive of torch with a pickle that was made by hand."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        for member, data in {"a/data.pkl": content, "a/data/0": bytes(4), "a/version": b"3\n", **others}.items():
            opened.writestr(member, data)
    return archive.getvalue()


LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19." b"\x80\x02M\xe9\x03." b"\x80\x02}."
# ((), ()) in itself sixty times over: 2^60 values in a key, of which only the digest is wanted
TWICE = b")q\x00" + b"".join(b"h%c\x86q%c" % (depth, depth + 1) for depth in range(60))
TENS_OF_BILLIONS = b"\x8a\x05\0\xe4\x0bT\x02"
KEY = b"X\x01\x00\x00\x000"
TENSOR = (b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n" + KEY +
          b"X\x03\x00\x00\x00cpuK\x01tQK\x00%s\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR")


def dictionary(value):
    return b"\x80\x02}(" + KEY + value + b"u."


HARMLESS = dictionary(TENSOR % b"K\x01")
PICKLES = {
    "such a value": dictionary(TWICE),
    "a copy of one value billions of times": dictionary(
        b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n(" + TENSOR % TENS_OF_BILLIONS + b"tR"),
    "a tensor of billions of values": dictionary(b"ctorch\nFloatTensor\n" + TENS_OF_BILLIONS + b"\x85R"),
    "a shape of billions": dictionary(TENSOR % TENS_OF_BILLIONS),
    "a negative shape": dictionary(TENSOR % b"J\xfb\xff\xff\xff"),
    "itself": b"\x80\x02}q\x00(X\x0a\x00\x00\x00state_dicth\x00u.",
    "a place in the memo": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a mark too many": b"\x80\x02(}u.",
    "no end": b"\x80\x02}",
    "a long name": b"\x80\x02c" + b"a" * 1_000_000 + b"\nb\n.",
    "a module of the system": dictionary(b"cos\nsystem\n(X\x04\x00\x00\x00exittR"),
    "an attribute": dictionary(b"cbuiltins\ngetattr\n(ctorch\nload\nX\x04\x00\x00\x00exittRX\x01\x00\x00\x00x\x85R"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_that_are_small_and_do_harm(tmp_path, content):
    path = tmp_path / "m.pt"
    path.write_bytes(pickled(HARMLESS))
    assert [(t.name, t.values) for t in read_tensors(path)] == [("0", 1)]
    for written in (pickled(content), content, LEGACY + content + b"\x80\x02]."):
        path.write_bytes(written)
        with pytest.raises(InputError, match="m.pt: [^\n]*$"):
            read_tensors(path)
    for first, second in ((HARMLESS, content), (content, HARMLESS)):
        path.write_bytes(pickled(first, **{"a/DATA.pkl": second}))
        try:
            read_tensors(path)  # torch decides which of them it takes
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("content", [
    b"\x80\x02}(" + TWICE + b"K\x01u.", dictionary(b"cbuiltins\nbytearray\n" + TENS_OF_BILLIONS + b"\x85R"),
], ids=["a key of 2^60 values", "billions of zeros"])
def test_pickles_that_take_hours_or_gigabytes(tmp_path, monkeypatch, content):
    monkeypatch.setattr(model_files, "MAX_SECONDS", 1.0)
    (tmp_path / "m.pt").write_bytes(pickled(content))
    assert "takes more than 1 s or 400,000,000 B of memory" in refusal(tmp_path / "m.pt")
