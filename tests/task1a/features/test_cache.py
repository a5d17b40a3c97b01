import hashlib
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

from task1a.config import FeatureConfig
from task1a.errors import InputError
from task1a.features import build as build_module
from task1a.features import cache
from task1a.features import log_mel as log_mel_module
from task1a.features.audio import read_clip
from task1a.features.build import build, is_complete
from task1a.features.cache import FeatureCache
from task1a.features.log_mel import log_mel
from task1a.files import exclusive

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
    seen, extract = [], build_module.extract

    def note(root, features, array, task):
        seen.append(task[0])
        return extract(root, features, array, task)
    monkeypatch.setattr(build_module, "extract", note)
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
    lines = (folder / "index.csv").read_text(encoding="utf-8").split("\n")
    assert lines[0] == "filename\tsize\tmtime_ns\tctime_ns\tinode\tblake2b\trow\tcrc32\tnotes" and len(lines) == 9
    path = root / "audio/3.wav"
    stat, content = path.stat(), hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    assert lines[4].split("\t") == ["audio/3.wav", *map(str, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns,
                                    stat.st_ino)), content, "3", f"{zlib.crc32(stored[3].tobytes()):08x}", ""]


def test_a_changed_row_is_refused(root, cache_dir):
    folder = build(root, names(root), TINY, cache_dir).folder
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
    for name in names(root):  # of one size and time, as unpacked from an archive
        os.utime(root / name, ns=(10 ** 18, 10 ** 18))
    build(root, names(root), TINY, cache_dir)
    (root / "audio/1.wav").rename(root / "audio/x.wav")
    (root / "audio/4.wav").rename(root / "audio/1.wav")
    (root / "audio/x.wav").rename(root / "audio/4.wav")
    write_clip(root / "audio/00.wav", seed=50)  # comes first in every order by name
    built = build(root, names(root), TINY, cache_dir)
    assert len(built) == 7
    for name in names(root):
        np.testing.assert_array_equal(built.read([name])[0], expected(root / name))


@pytest.mark.parametrize("change", [
    lambda path: shutil.copy2(path, path.with_name("x")).replace(path),
    lambda path: path.chmod(0o600),
    lambda path: os.link(path, path.parents[2] / "another name"),
    lambda path: os.utime(path, ns=(10 ** 18, 10 ** 18)),
], ids=["restored", "permissions", "hard link", "time"])
def test_another_identity_of_the_same_content(root, cache_dir, computed, change):
    before = build(root, names(root), TINY, cache_dir)
    array = (before.folder / "log_mel.float16").read_bytes()
    computed.clear()
    change(root / "audio/2.wav")
    after = build(root, names(root), TINY, cache_dir)
    assert computed == [] and (before.folder / "log_mel.float16").read_bytes() == array
    assert after.clips["audio/2.wav"].file != before.clips["audio/2.wav"].file
    assert after.digest(names(root)) == before.digest(names(root))


def with_version(monkeypatch, number):
    versions = build_module.version
    monkeypatch.setattr(build_module, "version", lambda name: number if name == "soxr" else versions(name))


def test_a_version_that_changes_nothing(root, cache_dir, computed, monkeypatch, capfd):
    build(root, names(root), TINY, cache_dir)
    computed.clear()
    with_version(monkeypatch, "9.9")
    assert not is_complete(root, TINY, cache_dir)
    monkeypatch.setattr(log_mel_module, "log_mel", lambda *args: log_mel(*args) + 1e-3)
    build(root, names(root), TINY, cache_dir)
    assert computed == [] and is_complete(root, TINY, cache_dir)
    assert "computed again" not in capfd.readouterr().err
    with_version(monkeypatch, "9.10")  # small changes add up
    monkeypatch.setattr(log_mel_module, "log_mel", lambda *args: log_mel(*args) + 2.5e-3)
    build(root, names(root), TINY, cache_dir)
    assert computed == names(root)


@pytest.mark.parametrize("change", [
    lambda energies: energies + 0.01,
    lambda energies: np.roll(energies, 1, axis=0),  # shifted bands
    lambda energies: energies + 0.05 * np.repeat([1, -1, 0], [10, 10, 1]),  # parts of the clip, in all bands alike
    lambda energies: energies + 0.05 * np.repeat([[1], [-1]], 4, axis=0),  # bands, in the whole clip alike
])
def test_a_version_that_changes_features(root, cache_dir, computed, monkeypatch, capfd, change):
    folder = build(root, names(root), TINY, cache_dir).folder
    array = (folder / "log_mel.float16").read_bytes()
    computed.clear()
    with_version(monkeypatch, "9.9")
    monkeypatch.setattr(log_mel_module, "log_mel", lambda *args: change(log_mel(*args)))
    build(root, names(root), TINY, cache_dir)
    assert computed == names(root) and (folder / "log_mel.float16").read_bytes() != array
    assert "the installed libraries compute other features" in capfd.readouterr().err
    computed.clear()
    build(root, names(root), TINY, cache_dir)
    assert computed == [] and is_complete(root, TINY, cache_dir)


@pytest.mark.parametrize("probe", ["1", "[x]", "[1.0]"])
def test_a_version_and_a_damaged_probe(root, cache_dir, computed, monkeypatch, probe):
    description = build(root, names(root), TINY, cache_dir).folder / "features.yaml"
    text = description.read_text(encoding="utf-8")
    description.write_text(text[:text.index("probe: ")] + f"probe: {probe}\n", encoding="utf-8")
    computed.clear()
    with_version(monkeypatch, "9.9")
    build(root, names(root), TINY, cache_dir)
    assert computed == names(root) and is_complete(root, TINY, cache_dir)


def write_samples(path, samples):
    soundfile.write(path, samples, 8000, subtype="FLOAT")


TONE = np.sin(np.arange(1600))
ODD_SOUND = {
    "16-bit integers": (TONE * 32767, "floating-point samples far above full scale"),
    "quiet 24-bit integers": (TONE * 20_000, "floating-point samples far above full scale"),
    "23.9 dB over full scale": (TONE * 15.6, None),
    "24.1 dB over full scale": (TONE * 16.1, "floating-point samples far above full scale"),
    "silence": (TONE * 0, "silent or constant"),
    "constant": (TONE * 0 + 0.3, "silent or constant"),
    "silence with dither": (np.round(TONE) * 2 ** -16, "silent or constant"),
    "very quiet": (TONE * 2 ** -14, None),
    "mean 30.2 dB below the channels": (np.stack([TONE, -0.94 * TONE], axis=1), "channels cancel each other"),
    "mean 28.8 dB below the channels": (np.stack([TONE, -0.93 * TONE], axis=1), None),
    "mean of nothing": (np.stack([TONE, -TONE], axis=1), "channels cancel each other"),
    "three channels that cancel": (np.stack([TONE, TONE, -2 * TONE], axis=1), "channels cancel each other"),
    "stereo": (np.stack([TONE, np.cos(np.arange(1600))], axis=1), None),
    "one silent channel": (np.stack([TONE, 0 * TONE], axis=1), None),
}


@pytest.mark.parametrize(("samples", "note"), ODD_SOUND.values(), ids=ODD_SOUND)
def test_notes_about_sound(root, cache_dir, capfd, samples, note):
    write_samples(root / "audio/2.wav", samples)
    printed = []
    for _ in range(2):  # the second time, nothing is read
        build(root, names(root), TINY, cache_dir)
        printed.append([line for line in capfd.readouterr().err.splitlines() if line.startswith("note: ")])
    assert printed[0] == printed[1] and len(printed[0]) == bool(note)
    if note:
        assert note in printed[0][0] and printed[0][0].endswith(": 1 (audio/2.wav)")


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
    (damaged_root / "audio/2.wav").write_bytes(b"")  # what was computed before is not served
    built = build(damaged_root, names(damaged_root), TINY, cache_dir, skip_damaged=True)
    assert "audio/2.wav" not in built.clips | FeatureCache.open(damaged_root, TINY, cache_dir).clips


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


def test_lines_beyond_the_end_of_the_array_do_not_count(root, cache_dir):
    folder = build(root, names(root), TINY, cache_dir).folder
    whole = contents(folder)
    os.truncate(folder / "log_mel.float16", 3 * ROW_BYTES + 7)
    rest = FeatureCache.open(root, TINY, cache_dir)
    assert list(rest.clips) == names(root)[:3]
    rest.read(["audio/2.wav"])
    build(root, names(root), TINY, cache_dir)
    assert contents(folder) == whole


def with_two_lines_exchanged(index: bytes) -> bytes:
    lines = index.split(b"\n")
    lines[2], lines[3] = lines[3], lines[2]
    return b"\n".join(lines)


@pytest.mark.parametrize(("name", "change"), [
    ("index.csv", lambda index: b""),
    ("index.csv", lambda index: index[index.index(b"\n") + 1:]),
    ("index.csv", with_two_lines_exchanged),
    ("index.csv", lambda index: index + index.split(b"\n")[3] + b"\n"),
    ("index.csv", lambda index: index[:-1]),
    ("index.csv", lambda index: index[:200]),
    ("index.csv", lambda index: index.replace(b"\t3\t", b"\t2\t", 1)),
    ("index.csv", lambda index: index.replace(b"\n", b"\r\n")),
    ("index.csv", lambda index: bytes(len(index))),
    ("features.yaml", lambda text: text.replace(b"hop: 80", b"hop: 90")),
    ("features.yaml", lambda text: b"["),
    ("features.yaml", lambda text: b""),
    ("features.yaml", lambda text: text[:text.index(b"probe")]),
    ("log_mel.float16", lambda array: array[:-1]),
    ("log_mel.float16", lambda array: b""),
    *((name, None) for name in FILES),
], ids=["empty", "no header", "another order", "a line twice", "no end", "torn", "changed line", "other line ends",
        "zeros", "configuration", "no YAML", "no description", "no probe", "array", "no array", *FILES])
def test_a_changed_cache_is_built_again(root, cache_dir, name, change):
    folder = build(root, names(root), TINY, cache_dir).folder
    whole = contents(folder)
    if change:
        (folder / name).write_bytes(change(whole[name]))
    else:
        (folder / name).unlink()
    assert not is_complete(root, TINY, cache_dir) or set(cache.read_index(folder, TINY)) != set(names(root))
    build(root, names(root), TINY, cache_dir)
    assert contents(folder) == whole and is_complete(root, TINY, cache_dir)


def interrupt_build(monkeypatch, root, cache_dir, at, then=lambda: None):
    extract = build_module.extract

    def interrupted(root, features, array, task):
        if task[0] == at:
            then()
            raise KeyboardInterrupt
        return extract(root, features, array, task)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build_module, "extract", interrupted)
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
extract = build_module.extract

def wait_and_extract(root, features, array, task):
    while task[0] == "audio/30.wav" and (root / "wait").exists():
        time.sleep(0.05)
    return extract(root, features, array, task)

if __name__ == "__main__":
    build_module.extract = wait_and_extract
    build_module._MIN_CLIPS, build_module._SAVE_SECONDS, build_module._SAVE_TIMES, build_module._CHUNK = 2, 0, 0, 3
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
    try:
        wait_until(lambda: index.is_file() and index.read_bytes().count(b"\n") == 2 + len(stuck_names))
    finally:
        running.kill()  # SIGKILL
    running.communicate(timeout=30)  # the workers hold the other end of this pipe: it ends only when they, too, have

    (root / "wait").unlink()
    assert list(FeatureCache.open(root, TINY, cache_dir).clips) == stuck_names
    subprocess.run(command, check=True, timeout=180)
    assert contents(index.parent) == undisturbed


def test_second_build_waits_for_the_first(root, cache_dir, capfd):
    folder = cache.cache_folder(root, TINY, cache_dir)
    folder.mkdir(parents=True)
    second = threading.Thread(target=build, args=(root, names(root), TINY, cache_dir))
    with exclusive(folder / ".lock"):
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
    monkeypatch.setattr(build_module, "extract", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\).*data.cache_dir"):
        build(root, names(root), TINY, cache_dir)
    (cache_dir.parent / "a file").write_text("")
    with pytest.raises(InputError, match="cannot be opened for writing"):
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
    said = capsys.readouterr().err
    assert "\r" not in said and said.splitlines()[-1].startswith("log-mel: 6 of 6 clips, 00:0")
