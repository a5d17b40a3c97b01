import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from task1a.config import FeatureConfig
from task1a.errors import InputError
from task1a.features import build as build_module
from task1a.features import cache
from task1a.features.audio import read_clip
from task1a.features.build import build, is_whole
from task1a.features.cache import FeatureCache
from task1a.features.log_mel import log_mel

TINY = FeatureConfig(sample_rate=8000, n_mels=8, window=200, hop=80, n_fft=256, clip_seconds=0.2)
ROW_BYTES = 2 * 8 * 21
FILES = ("log_mel.float16", "index.csv", "features.yaml")


def write_clip(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, 1600), 8000, subtype="PCM_24")


@pytest.fixture
def root(tmp_path):
    for number in range(6):
        write_clip(tmp_path / "set" / "audio" / f"{number}.wav", number)
    return tmp_path / "set"


@pytest.fixture
def cache_dir(tmp_path):
    return tmp_path / "cache"


def names(root: Path) -> list[str]:
    return sorted(f"audio/{path.name}" for path in (root / "audio").iterdir())


def expected(path: Path) -> np.ndarray:
    return log_mel(read_clip(path, TINY), TINY).astype("<f2").astype(np.float32)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture
def computed(monkeypatch):
    """Names of the clips that a build in this process computes."""
    seen, extract = [], build_module._extract

    def note(root, features, array, task):
        seen.append(task[0])
        return extract(root, features, array, task)
    monkeypatch.setattr(build_module, "_extract", note)
    return seen


def test_every_clip_has_its_own_features(root, cache_dir):
    built = build(root, names(root), TINY, cache_dir)
    assert built.array.shape == (6, 8, 21) and len(built) == 6 and built.damaged == {}
    order = ["audio/4.wav", "audio/0.wav", "audio/4.wav"]
    energies = built.read(order)
    assert energies.dtype == np.float32
    for name, clip in zip(order, energies, strict=True):
        np.testing.assert_array_equal(clip, expected(root / name))
    np.testing.assert_array_equal(built.read(built.rows(order)), energies)
    np.testing.assert_array_equal(FeatureCache.open(root, TINY, cache_dir).read(order), energies)


def test_files(root, cache_dir):
    folder = build(root, names(root), TINY, cache_dir).folder
    assert folder.parent == cache_dir and folder.name.startswith("set-")
    assert {path.name for path in folder.iterdir()} - {".lock"} == set(FILES)
    stored = np.fromfile(folder / "log_mel.float16", "<f2").reshape(6, 8, 21)
    np.testing.assert_array_equal(stored[3].astype(np.float32), expected(root / "audio/3.wav"))
    lines = (folder / "index.csv").read_bytes().decode().split("\n")
    assert lines[0] == "filename\tsize\tmtime_ns\tblake2b\trow\tcrc32\tline_crc32" and lines[-1] == ""
    stat = (root / "audio/3.wav").stat()
    assert lines[4].split("\t")[:3] == ["audio/3.wav", str(stat.st_size), str(stat.st_mtime_ns)]
    line, checksum = lines[4].rsplit("\t", 1)
    assert line.endswith(f"\t3\t{zlib.crc32(stored[3].tobytes()):08x}")
    assert checksum == f"{zlib.crc32(line.encode()):08x}"


def test_a_changed_line_does_not_count_and_a_changed_row_is_refused(root, cache_dir, computed):
    folder = build(root, names(root), TINY, cache_dir).folder
    before = contents(folder)
    index = folder / "index.csv"
    index.write_text(index.read_text(encoding="utf-8").replace("\t3\t", "\t2\t", 1), encoding="utf-8")
    computed.clear()
    build(root, names(root), TINY, cache_dir)
    assert computed == ["audio/3.wav"] and contents(folder) == before
    with open(folder / "log_mel.float16", "rb+") as array:
        array.seek(2 * 8 * 21 * 3 + 5)
        array.write(b"\x7f")
    opened = FeatureCache.open(root, TINY, cache_dir)
    opened.read(["audio/2.wav"])
    with pytest.raises(InputError, match="log_mel.float16: the features of audio/3.wav are damaged"):
        opened.read(["audio/3.wav"])


def test_nothing_is_done_twice(root, cache_dir, computed):
    folder = build(root, names(root), TINY, cache_dir).folder
    before = contents(folder)
    build(root, reversed(names(root)), TINY, cache_dir)
    assert computed == names(root) and contents(folder) == before
    os.utime(root / "audio/2.wav", ns=(10 ** 18, 10 ** 18))
    build(root, names(root), TINY, cache_dir)
    assert computed == names(root) and f"\t{10 ** 18}\t" in (folder / "index.csv").read_text(encoding="utf-8")


def test_changed_file_is_computed_again(root, cache_dir, computed):
    before = build(root, names(root), TINY, cache_dir)
    computed.clear()
    write_clip(root / "audio/2.wav", seed=99)  # of the same size
    os.utime(root / "audio/2.wav", ns=(10 ** 18, 10 ** 18))
    after = build(root, names(root), TINY, cache_dir)
    assert computed == ["audio/2.wav"]
    np.testing.assert_array_equal(after.read(["audio/2.wav"])[0], expected(root / "audio/2.wav"))
    assert after.digest(names(root)) != before.digest(names(root))
    assert after.digest(["audio/1.wav"]) == before.digest(["audio/1.wav"])


def test_exchanged_and_added_clips_keep_their_features_apart(root, cache_dir):
    build(root, names(root), TINY, cache_dir)
    (root / "audio/1.wav").rename(root / "audio/x.wav")
    (root / "audio/4.wav").rename(root / "audio/1.wav")
    (root / "audio/x.wav").rename(root / "audio/4.wav")
    write_clip(root / "audio/00.wav", seed=50)  # comes first in every order by name
    built = build(root, names(root), TINY, cache_dir)
    assert len(built) == 7
    for name in names(root):
        np.testing.assert_array_equal(built.read([name])[0], expected(root / name))


def test_configurations_and_data_sets_have_folders_of_their_own(root, tmp_path, cache_dir):
    other = FeatureConfig(sample_rate=8000, n_mels=4, window=200, hop=80, n_fft=256, clip_seconds=0.2)
    write_clip(tmp_path / "copy" / "set" / "audio" / "0.wav", seed=0)
    folders = {build(*args, cache_dir).folder for args in (
        (root, names(root), TINY), (root, names(root), other), (tmp_path / "copy" / "set", ["audio/0.wav"], TINY))}
    assert len(folders) == 3
    assert FeatureCache.open(root, other, cache_dir).array.shape == (6, 4, 21)


def test_digest_depends_on_names_content_and_configuration(root, cache_dir):
    built = build(root, names(root), TINY, cache_dir)
    assert built.digest(names(root)) == built.digest(reversed(names(root)))
    assert built.digest(names(root)) != built.digest(names(root)[1:])
    other = FeatureConfig(sample_rate=8000, n_mels=8, window=200, hop=80, n_fft=256, clip_seconds=0.2, log_floor=1e-6)
    assert build(root, names(root), other, cache_dir).digest(names(root)) != built.digest(names(root))


def test_unknown_clip_and_missing_cache_are_named(root, cache_dir):
    with pytest.raises(InputError, match="--stage features"):
        FeatureCache.open(root, TINY, cache_dir)
    with pytest.raises(InputError, match="no features of audio/9.wav"):
        build(root, names(root), TINY, cache_dir).read(["audio/9.wav"])


@pytest.fixture
def damaged_root(root):
    whole = (root / "audio/1.wav").read_bytes()
    (root / "audio/1.wav").write_bytes(whole[:-100])
    (root / "audio/3.wav").write_bytes(b"")
    soundfile.write(root / "audio/6.wav", np.full(1600, 1e30), 8000, subtype="FLOAT")
    return root


def test_damaged_clips_are_named_after_all_others_are_stored(damaged_root, cache_dir):
    with pytest.raises(InputError) as error:
        build(damaged_root, [*names(damaged_root), "audio/7.wav"], TINY, cache_dir)
    message = str(error.value)
    assert "4 of 8 clips" in message and "\n" not in message and "--skip-damaged" in message
    assert "audio/1.wav: truncated: 4,700 of 4,800 bytes" in message and "audio/3.wav: empty file" in message
    assert "audio/6.wav: holds samples too large" in message and "audio/7.wav: No such file" in message
    assert set(FeatureCache.open(damaged_root, TINY, cache_dir).clips) == {f"audio/{n}.wav" for n in (0, 2, 4, 5)}


def test_damaged_clips_can_be_left_out_and_put_right(damaged_root, cache_dir):
    built = build(damaged_root, names(damaged_root), TINY, cache_dir, skip_damaged=True)
    assert list(built.damaged) == ["audio/1.wav", "audio/3.wav", "audio/6.wav"] and len(built) == 4
    for number in (1, 3, 6):
        write_clip(damaged_root / "audio" / f"{number}.wav", seed=number)
    built = build(damaged_root, names(damaged_root), TINY, cache_dir)
    for name in names(damaged_root):
        np.testing.assert_array_equal(built.read([name])[0], expected(damaged_root / name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
@pytest.mark.parametrize("known", [False, True])
def test_special_files_are_not_opened(root, cache_dir, known):
    if known:
        build(root, names(root), TINY, cache_dir)
    clips = names(root)
    for number, make in enumerate((os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"))):
        (root / "audio" / f"{number}.wav").unlink()
        make(root / "audio" / f"{number}.wav")
    with pytest.raises(InputError, match="^3 of 6 clips cannot be read") as error:
        build(root, clips, TINY, cache_dir)
    assert str(error.value).count("not a regular file") == 3
    assert len(build(root, clips, TINY, cache_dir, skip_damaged=True)) == 3


def test_a_long_recording_takes_little_memory(root, cache_dir):
    def header(rate, size):
        return struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16,
                           b"data", size)
    (root / "audio/0.wav").write_bytes(header(8000, 400_000_000))  # seven hours of silence
    os.truncate(root / "audio/0.wav", 400_000_044)
    tracemalloc.start()
    build(root, names(root), TINY, cache_dir)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_many_damaged_clips_are_counted_and_ten_named(root, cache_dir):
    for number in range(20, 35):
        (root / "audio" / f"{number}.wav").write_bytes(b"")
    with pytest.raises(InputError, match=r"15 of 21 clips .* and 5 more$") as error:
        build(root, names(root), TINY, cache_dir)
    assert str(error.value).count("empty file") == 10


def test_clip_damaged_later_is_not_served_from_before(root, cache_dir):
    build(root, names(root), TINY, cache_dir)
    (root / "audio/2.wav").write_bytes(b"")
    built = build(root, names(root), TINY, cache_dir, skip_damaged=True)
    assert "audio/2.wav" not in built.clips
    assert "audio/2.wav" not in FeatureCache.open(root, TINY, cache_dir).clips


def test_half_a_line_and_torn_lines_do_not_count(root, cache_dir, computed):
    folder = build(root, names(root), TINY, cache_dir).folder
    whole = contents(folder)
    lines = whole["index.csv"].split(b"\n")
    torn = [*lines[:3], b"\0" * 40, lines[4][:30], lines[5]]  # the last one without its line end
    (folder / "index.csv").write_bytes(b"\n".join(torn))
    assert list(FeatureCache.open(root, TINY, cache_dir).clips) == ["audio/0.wav", "audio/1.wav"]
    computed.clear()
    build(root, names(root), TINY, cache_dir)
    assert computed == names(root)[2:] and contents(folder) == whole


def test_lines_beyond_the_end_of_the_array_do_not_count(root, cache_dir):
    folder = build(root, names(root), TINY, cache_dir).folder
    whole = contents(folder)
    os.truncate(folder / "log_mel.float16", 3 * ROW_BYTES + 7)
    rest = FeatureCache.open(root, TINY, cache_dir)
    assert list(rest.clips) == names(root)[:3]
    rest.read(["audio/2.wav"])
    build(root, names(root), TINY, cache_dir)
    assert contents(folder) == whole


def without_line(index: bytes, number: int) -> bytes:
    lines = index.split(b"\n")
    return b"\n".join(lines[:number] + lines[number + 1:])


def with_two_lines_exchanged(index: bytes) -> bytes:
    lines = index.split(b"\n")
    lines[2], lines[3] = lines[3], lines[2]
    return b"\n".join(lines)


@pytest.mark.parametrize(("name", "change"), [
    ("index.csv", lambda index: b""),
    ("index.csv", lambda index: without_line(index, 0)),
    ("index.csv", with_two_lines_exchanged),
    ("index.csv", lambda index: index + index.split(b"\n")[3] + b"\n"),
    ("index.csv", lambda index: index[:-1]),
    ("index.csv", lambda index: index.replace(b"\t3\t", b"\t2\t", 1)),
    ("index.csv", lambda index: index.replace(b"\n", b"\r\n")),
    ("features.yaml", lambda text: text + b"\n"),
    ("log_mel.float16", lambda array: array[:-1]),
], ids=["empty", "no header", "another order", "a line twice", "no end", "changed line", "other line ends",
        "description", "array"])
def test_a_cache_that_a_build_would_write_otherwise_is_not_whole(root, cache_dir, name, change):
    folder = build(root, names(root), TINY, cache_dir).folder
    whole = contents(folder)
    assert is_whole(root, TINY, cache_dir)
    (folder / name).write_bytes(change(whole[name]))
    assert not is_whole(root, TINY, cache_dir)
    build(root, names(root), TINY, cache_dir)
    assert contents(folder) == whole and is_whole(root, TINY, cache_dir)


@pytest.mark.parametrize("missing", FILES)
def test_a_cache_without_one_of_its_files_is_not_whole(root, cache_dir, missing):
    folder = build(root, names(root), TINY, cache_dir).folder
    (folder / missing).unlink()
    assert not is_whole(root, TINY, cache_dir)


def test_a_cache_in_which_a_line_was_renewed_is_whole_again_at_the_end(root, cache_dir):
    folder = build(root, names(root), TINY, cache_dir).folder
    os.utime(root / "audio/2.wav", ns=(10 ** 18, 10 ** 18))
    build(root, names(root), TINY, cache_dir)
    assert is_whole(root, TINY, cache_dir)
    # a build that is killed after it appended the line leaves the old one there
    renewed = cache.index_line("audio/2.wav", cache.read_index(folder, TINY)["audio/2.wav"]._replace(mtime_ns=5))
    with open(folder / "index.csv", "a", encoding="utf-8", newline="\n") as index:
        index.write(renewed)
    assert not is_whole(root, TINY, cache_dir) and cache.read_index(folder, TINY)["audio/2.wav"].mtime_ns == 5


def interrupt_build(monkeypatch, root, cache_dir, at, then=lambda: None):
    extract = build_module._extract

    def interrupted(root, features, array, task):
        if task[0] == at:
            then()
            raise KeyboardInterrupt
        return extract(root, features, array, task)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, "_extract", interrupted)
        build(root, names(root), TINY, cache_dir)


def test_interrupt_keeps_what_is_done(root, cache_dir, monkeypatch):
    undisturbed = contents(build(root, names(root), TINY, cache_dir / "undisturbed").folder)
    interrupt_build(monkeypatch, root, cache_dir, at="audio/3.wav")
    assert list(FeatureCache.open(root, TINY, cache_dir).clips) == names(root)[:3]
    assert contents(build(root, names(root), TINY, cache_dir).folder) == undisturbed


def test_interrupted_update_goes_on_to_the_same_files(root, cache_dir, monkeypatch):
    build(root, names(root), TINY, cache_dir)
    write_clip(root / "audio/1.wav", seed=99)
    os.utime(root / "audio/1.wav", ns=(10 ** 18, 10 ** 18))
    for new in ("00", "7"):
        write_clip(root / "audio" / f"{new}.wav", seed=50)
    shutil.copytree(cache_dir, cache_dir.with_name("copy"))
    undisturbed = contents(build(root, names(root), TINY, cache_dir.with_name("copy")).folder)

    def rows_being_written_are_not_listed():
        clips = FeatureCache.open(root, TINY, cache_dir).clips
        assert "audio/1.wav" not in clips and "audio/2.wav" in clips
    interrupt_build(monkeypatch, root, cache_dir, at="audio/00.wav", then=rows_being_written_are_not_listed)
    interrupt_build(monkeypatch, root, cache_dir, at="audio/7.wav")
    assert contents(build(root, names(root), TINY, cache_dir).folder) == undisturbed


SCRIPT = f"""
import sys, time
from pathlib import Path
from task1a.config import FeatureConfig
from task1a.features import build as build_module
extract = build_module._extract

def wait_and_extract(root, features, array, task):
    while task[0] == "audio/30.wav" and (root / "wait").exists():
        time.sleep(0.05)
    return extract(root, features, array, task)

if __name__ == "__main__":
    build_module._extract = wait_and_extract
    build_module._FEW_CLIPS, build_module._SAVE_CLIPS, build_module._SAVE_SECONDS, build_module._CHUNK = 2, 4, 1000.0, 3
    root = Path(sys.argv[1])
    clips = [f"audio/{{path.name}}" for path in (root / "audio").iterdir()]
    build_module.build(root, clips, {TINY!r}, Path(sys.argv[2]), workers=2)
"""


def wait_until(condition, seconds=180.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_killed_build_goes_on_to_the_same_files(root, cache_dir, tmp_path):
    for number in range(6, 40):
        write_clip(root / "audio" / f"{number}.wav", number)
    stuck_names = names(root)[:names(root).index("audio/30.wav")]
    undisturbed = contents(build(root, names(root), TINY, cache_dir / "undisturbed").folder)

    (root / "wait").touch()  # the build stands still in its middle
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "script.py"), str(root), str(cache_dir)]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    index = cache.cache_folder(root, TINY, cache_dir) / "index.csv"
    saved = 4 * (len(stuck_names) // 4)
    try:
        wait_until(lambda: index.is_file() and index.read_bytes().count(b"\n") == 1 + saved)
    finally:
        running.kill()  # SIGKILL
    running.communicate(timeout=30)  # the workers hold the other end of this pipe: it ends only when they, too, have

    (root / "wait").unlink()
    assert list(FeatureCache.open(root, TINY, cache_dir).clips) == stuck_names[:saved]
    subprocess.run(command, check=True, timeout=180)
    assert contents(index.parent) == undisturbed


def test_second_build_waits_for_the_first(root, cache_dir, capfd):
    folder = cache.cache_folder(root, TINY, cache_dir)
    folder.mkdir(parents=True)
    second = threading.Thread(target=build, args=(root, names(root), TINY, cache_dir))
    with FileLock(folder / ".lock"):
        second.start()
        wait_until(lambda: "waiting for another run" in capfd.readouterr().err)
        assert second.is_alive() and not (folder / "index.csv").exists()
    second.join(30)
    assert len(FeatureCache.open(root, TINY, cache_dir)) == 6


def test_full_disk_is_told_beforehand(root, cache_dir, monkeypatch):
    monkeypatch.setattr(build_module.shutil, "disk_usage", lambda path: namedtuple("usage", "free")(100))
    with pytest.raises(InputError, match=r"are needed and .* are free; make room there"):
        build(root, names(root), TINY, cache_dir)


def test_write_error_is_one_line(root, cache_dir, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(build_module, "_extract", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\).*data.cache_dir"):
        build(root, names(root), TINY, cache_dir)
    (cache_dir.parent / "a file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        build(root, names(root), TINY, cache_dir.parent / "a file")


def test_reading_needs_no_torch(root, cache_dir):
    build(root, names(root), TINY, cache_dir)
    code = ("import sys; from pathlib import Path; from task1a.config import FeatureConfig\n"
            "from task1a.features.cache import FeatureCache\n"
            f"stored = FeatureCache.open(Path({str(root)!r}), {TINY!r}, Path({str(cache_dir)!r}))\n"
            "print(stored.read(['audio/0.wav']).shape)\n"
            "assert 'torch' not in sys.modules")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "(1, 8, 21)\n"


def test_progress_is_shown_where_there_is_no_terminal(root, cache_dir, capsys):
    build(root, names(root), TINY, cache_dir)
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("log-mel: 100%") and "6/6" in last
