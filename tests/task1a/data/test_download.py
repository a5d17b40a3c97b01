"""Download of data sets from a server on the loopback that misbehaves in every way that servers do."""
import builtins
import email.utils
import io
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import task1a
from task1a.data import download as downloads
from task1a.data import fetch
from task1a.data.download import SETS, Release, download, release
from task1a.data.fetch import Archive
from task1a.errors import InputError, run_command
from task1a.files import exclusive
from task1a.pipeline import runner

REPOSITORY = Path(__file__).resolve().parents[3]
_server = runpy.run_path(str(Path(__file__).with_name("archive_server.py")))
ArchiveServer, zipped = _server["ArchiveServer"], _server["zipped"]

NAME = "TAU-urban-acoustic-scenes-2020-mobile-development"
DOC, META, AUDIO = (f"{NAME}.{kind}.zip" for kind in ("doc", "meta", "audio.1"))
NOISE = np.random.default_rng(0).integers(0, 256, 400_000, np.uint8).tobytes()  # cannot be compressed
FILES = {
    DOC: {"README.md": b"read me"},
    META: {"meta.csv": b"filename\n", "evaluation_setup/fold1_test.csv": b"filename\n"},
    AUDIO: {f"audio/{number}.wav": NOISE[number * 100_000:(number + 1) * 100_000] for number in range(4)},
}
CONTENT = {name: content for files in FILES.values() for name, content in files.items()}


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_DELAY", 0.001)


@pytest.fixture
def server():
    serving = ArchiveServer({name: zipped(files, NAME) for name, files in FILES.items()})
    yield serving
    serving.close()


@pytest.fixture
def data_set(server) -> Release:
    return described(server)


def described(server) -> Release:
    archives = [Archive(name, server.url(name), len(content), server.md5(name))
                for name, content in server.files.items()]
    return Release(NAME, "T. Heittola", "free non-commercial", server.url("").partition("/files/")[0], tuple(archives))


def content_of(folder: Path) -> dict[str, bytes]:
    """All files of a data set but the records of its download."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and ".download" not in path.parts}


def bring(folder: Path, data_set: Release, **settings) -> None:
    download({folder: data_set}, accept_licence=True, **settings)


def fails(folder: Path, data_set: Release, message: str, **settings) -> str:
    """The one line of a download that fails."""
    with pytest.raises(InputError, match=message) as error:
        bring(folder, data_set, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


# The sets, as dcase_util describes them


@pytest.mark.parametrize(("name", "packages", "size", "record"), [
    ("tau2020-development", 18, 27_364_817_167, 3819968), ("tau2021-evaluation", 8, 8_769_881_565, 4767109),
    ("tau2022-development", 18, 27_503_592_469, 6337421), ("tau2022-evaluation", 10, 13_249_195_806, 6591203)])
def test_sets_are_those_of_dcase_util(name, packages, size, record, tmp_path):
    from dcase_util import datasets

    described = release(name)
    theirs = getattr(datasets, SETS[name])(data_path=str(tmp_path))
    assert [(archive.url, archive.size, archive.md5) for archive in described.archives] == [
        (package["remote_file"], package["remote_bytes"], package["remote_md5"]) for package in theirs.package_list]
    assert len(described.archives) == packages and described.size == size
    assert described.page == f"https://zenodo.org/record/{record}" and described.licence == "free non-commercial"
    for archive in described.archives:
        assert archive.name.startswith(described.name) and archive.url == f"{described.page}/files/{archive.name}"


def test_the_description_is_read_in_silence_and_leaves_nothing_behind(tmp_path):
    code = "from task1a.data import download; print(download.release('tau2020-development').name)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TMP": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert (said.stdout, said.stderr, list(tmp_path.iterdir())) == (f"{NAME}\n", "", [])


# What a download leaves


def test_a_set_is_fetched_unpacked_and_not_fetched_again(server, data_set, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "set"
    bring(folder, data_set)
    assert content_of(folder) == CONTENT
    assert sorted(server.requests) == sorted((name, None) for name in FILES)
    assert "3 archives of" in capsys.readouterr().out
    server.close()
    monkeypatch.setattr(socket, "socket", None)  # the second time, not even a connection is tried
    download({folder: data_set})
    assert capsys.readouterr().out == f"{folder}: complete, nothing to download\n"


def test_archives_are_kept_if_asked(server, data_set, tmp_path):
    bring(tmp_path, data_set, keep_archives=True)
    assert content_of(tmp_path) == CONTENT | server.files
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT | server.files and len(server.requests) == 3


def test_archives_that_are_there_already_are_used(server, data_set, tmp_path):
    (tmp_path / AUDIO).write_bytes(server.files[AUDIO])
    (tmp_path / META).write_bytes(server.files[META][:100])
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT
    assert sorted(server.requests) == [(DOC, None), (META, "bytes=100-")]


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"RIFF")], ids=["missing", "cut off"])
def test_a_lost_file_is_restored_from_its_archive_alone(server, data_set, tmp_path, damage):
    bring(tmp_path, data_set)
    server.requests.clear()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("audio/*")}
    damage(tmp_path / "audio/2.wav")
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT and server.requests == [(AUDIO, None)]
    rewritten = [path.name for path, modified in times.items() if path.stat().st_mtime_ns != modified]
    assert rewritten == ["2.wav"]


def test_a_new_edition_of_an_archive_replaces_the_old_files(server, data_set, tmp_path):
    bring(tmp_path, data_set)
    server.files[META] = zipped({**FILES[META], "meta.csv": b"FILENAME\n"}, NAME)
    bring(tmp_path, described(server))
    assert content_of(tmp_path) == CONTENT | {"meta.csv": b"FILENAME\n"} and len(server.requests) == 4


def test_an_archive_that_a_killed_process_could_not_delete_is_deleted(server, data_set, tmp_path):
    bring(tmp_path, data_set)
    (tmp_path / AUDIO).write_bytes(server.files[AUDIO])
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT and len(server.requests) == 3


@pytest.mark.parametrize("record", ["", "{}", "[]", '{"md5": 1}', '{"md5": "x", "kept": true, "files": 1}'])
def test_a_damaged_record_means_that_an_archive_is_fetched_again(server, data_set, tmp_path, record):
    bring(tmp_path, data_set)
    (tmp_path / ".download" / NAME / f"{DOC}.json").write_text(record)
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT and server.requests[3:] == [(DOC, None)]


def test_two_sets_in_one_download(server, data_set, tmp_path):
    folders = [tmp_path / "development", tmp_path / "evaluation"]
    download(dict.fromkeys(folders, data_set), accept_licence=True)
    assert [content_of(folder) for folder in folders] == [CONTENT] * 2


# What must not be overwritten


def test_a_folder_that_holds_something_else_is_left_alone(data_set, tmp_path):
    (tmp_path / "meta.csv").write_text("my own")
    assert "without --download" in fails(tmp_path, data_set, r"something else already \(meta.csv\)")
    assert content_of(tmp_path) == {"meta.csv": b"my own"}


def test_two_sets_do_not_share_a_folder(data_set, tmp_path):
    bring(tmp_path, data_set)
    other = Release("TAU-other", "", "", "", data_set.archives)
    fails(tmp_path, other, "something else already")
    with pytest.raises(InputError, match="need folders of their own"):
        downloads.challenge_sets(tmp_path / "set", tmp_path / "x" / ".." / "set")


def test_one_process_at_a_time(server, data_set, tmp_path):
    (tmp_path / ".download").mkdir()
    with exclusive(tmp_path / ".download" / ".lock"):
        fails(tmp_path, data_set, "another process is working there")
    assert server.requests == []


# The licence


@pytest.mark.parametrize(("answer", "accepted"), [("y", True), ("Yes ", True), ("", False), ("n", False),
                                                  (EOFError, False)])
def test_the_licence_is_a_question_on_a_terminal(server, data_set, tmp_path, monkeypatch, capsys, answer, accepted):
    def reply(question):
        if answer is EOFError:
            raise EOFError
        return answer

    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(builtins, "input", reply)
    folder = tmp_path / "set"
    if accepted:
        download({folder: data_set})
        assert content_of(folder) == CONTENT
    else:
        with pytest.raises(InputError, match="was not accepted"):
            download({folder: data_set})
        assert not folder.exists() and server.requests == []
    assert f"licence: free non-commercial; its text is at {data_set.page}" in capsys.readouterr().out


def test_without_a_terminal_the_licence_needs_the_option(server, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(InputError, match="accept it with --accept-licence"):
        download({tmp_path / "set": data_set})
    assert not (tmp_path / "set").exists() and server.requests == []


def test_a_licence_is_accepted_once(server, data_set, tmp_path, monkeypatch, capsys):
    server.refusals[AUDIO] = [(404, {})]
    fails(tmp_path, data_set, "404")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    capsys.readouterr()
    download({tmp_path: data_set})
    assert content_of(tmp_path) == CONTENT and "licence" not in capsys.readouterr().out


# Servers and connections


def test_broken_connections_are_resumed(server, data_set, tmp_path):
    generator = np.random.default_rng(1)
    server.cut = lambda length: int(generator.integers(1, length)) if length > 5000 else None
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT
    ranges = [int(asked[6:-1]) for name, asked in server.requests if name == AUDIO and asked]
    assert ranges and ranges == sorted(ranges)  # never back to the start


PART = 123_456


@pytest.mark.parametrize(("settings", "part", "most"), [
    ({}, PART, -PART),
    ({"early": 1000}, PART, 1000 - PART),  # a range may begin earlier than asked for
    ({"lengths": False}, PART, -PART),
    ({"ranges": False}, PART, 0),  # what it sends again is not stored
    ({"lengths": False, "longer": b"x" * 1_000_000}, 0, 1_000_000),
    ({"lengths": False, "bytes_per_second": 3_000_000, "longer": b"x" * 60_000_000}, 0, 4_500_000),  # never ends
], ids=["ranges", "early", "no lengths", "no ranges", "more", "endless"])
def test_servers_that_send_what_is_missing(server, data_set, tmp_path, settings, part, most):
    content, settings = server.files[AUDIO], dict(settings)
    server.files[AUDIO] += settings.pop("longer", b"")
    vars(server).update(settings)
    if part:
        (tmp_path / f"{AUDIO}.part").write_bytes(content[:part])
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT
    assert (AUDIO, f"bytes={part}-" if part else None) in server.requests
    assert server.sent[AUDIO] <= len(content) + most


def test_a_server_without_ranges_does_not_set_a_download_back(server, data_set, tmp_path):
    server.ranges = False
    cuts = [200_000, 100_000, 300_000]
    server.cut = lambda length: cuts.pop(0) if length > 5000 and cuts else None
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT
    assert [name for name, _ in server.requests].count(AUDIO) == 4
    positions = [int(asked[6:-1]) for name, asked in server.requests if name == AUDIO and asked]
    assert positions == sorted(positions)  # what the second attempt sent was on disk already


@pytest.mark.parametrize(("settings", "content", "message"), [
    ({"early": -1000}, None, "another part of the file"),
    ({"ranges": False}, b"<html>", "offers a file of 6 bytes instead of"),  # a page that asks for a password
], ids=["another part", "another size"])
def test_a_wrong_answer_leaves_the_part(server, data_set, tmp_path, settings, content, message):
    part = tmp_path / f"{AUDIO}.part"
    part.write_bytes(server.files[AUDIO][:100_000])
    server.files[AUDIO] = content or server.files[AUDIO]
    vars(server).update(settings)
    fails(tmp_path, data_set, message)
    assert part.read_bytes() == zipped(FILES[AUDIO], NAME)[:100_000]


def changed(content: bytes) -> bytes:
    return content[:1000] + bytes([content[1000] ^ 1]) + content[1001:]


def test_a_wrong_part_is_fetched_a_second_time(server, data_set, tmp_path):
    (tmp_path / f"{AUDIO}.part").write_bytes(changed(server.files[AUDIO])[:300_000])
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT
    assert [asked for name, asked in server.requests if name == AUDIO] == ["bytes=300000-", None]


@pytest.mark.parametrize("more", [0, 10])
def test_a_wrong_archive_on_disk_is_fetched(server, data_set, tmp_path, more):
    (tmp_path / AUDIO).write_bytes(changed(server.files[AUDIO]) + b"x" * more)
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT and server.sent[AUDIO] == len(server.files[AUDIO])


def test_a_wrong_md5_sum_twice_is_an_error(server, data_set, tmp_path):
    right = server.md5(AUDIO)
    server.files[AUDIO] = changed(server.files[AUDIO])
    said = fails(tmp_path, data_set, f"has the md5 sum {server.md5(AUDIO)} instead of {right}, also when fetched a")
    assert server.url(AUDIO) in said and f"put it into {tmp_path}" in said
    assert [name for name, _ in server.requests].count(AUDIO) == 2
    assert not list(tmp_path.glob(f"{AUDIO}*")) and not (tmp_path / "audio").exists()


@pytest.mark.parametrize(("status", "advice"), [(404, "try again later, or get"), (410, "try again later, or get"),
                                                (403, "refuse addresses .* robots.* with a browser"),
                                                (407, "HTTPS_PROXY"), (501, "try again later, or get")])
def test_refusals_for_good(server, data_set, tmp_path, status, advice):
    server.refusals[AUDIO] = [(status, {})] * 20
    assert server.url(AUDIO) in fails(tmp_path, data_set, f"the server answers {status} .*{advice}")
    assert [name for name, _ in server.requests].count(AUDIO) == 1


DIGITS = "9" * 5000


@pytest.mark.parametrize(("status", "headers"), [
    (302, {"Location": "http://[::1"}), (302, {"Location": "http://a b:c/"}), (302, {"Location": "http://x:99999999/"}),
    (302, {"Location": "/record/1/files/" + AUDIO}), (302, {"Location": "ftp://x/"}), (302, {"Location": "http://"}),
    (503, {"Retry-After": DIGITS}), (429, {"Retry-After": "-1"}), (503, {"Retry-After": "Mon, 99 Foo 10000"}),
    (206, {"Content-Range": f"bytes {DIGITS}-{DIGITS}/{DIGITS}"}), (206, {"Content-Range": f"bytes 0-1/{DIGITS}"}),
    (206, {"Content-Range": "bytes \u00b2-4/5"}), (200, {"Content-Length": DIGITS}), (200, {"Content-Length": "-5"})])
def test_headers_that_make_no_sense(server, data_set, tmp_path, status, headers):
    server.refusals[AUDIO] = [(status, headers)] * 2
    bring(tmp_path, data_set)
    assert content_of(tmp_path) == CONTENT


def test_a_server_that_drips(server, data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "SLOW_SECONDS", 0.1)
    monkeypatch.setattr(fetch, "SLOW_BYTES", 100_000)
    monkeypatch.setattr(fetch, "ATTEMPTS", 3)
    server.files[AUDIO] = NOISE * 3
    server.bytes_per_second = 300_000
    fails(tmp_path, described(server), "the server sends almost nothing; run the same command again later to resume")
    assert [name for name, _ in server.requests].count(AUDIO) == 3


def test_the_download_names_itself(server, data_set, tmp_path):
    bring(tmp_path, data_set)
    assert set(server.agents) == {f"task1a/{task1a.__version__}"}


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(server, data_set, tmp_path, status, monkeypatch):
    server.refusals[AUDIO] = [(status, {"Retry-After": "1"})]
    bring(tmp_path, data_set)
    times = [moment for moment, (name, _) in zip(server.times, server.requests, strict=True) if name == AUDIO]
    assert content_of(tmp_path) == CONTENT and len(times) == 2 and times[1] - times[0] >= 1


@pytest.mark.parametrize(("headers", "least", "most"), [
    ({"Retry-After": "70"}, 70, 70), ({"Retry-After": "100000"}, 900, 900), ({"Retry-After": "soon"}, 0, 1),
    ({"Retry-After": email.utils.formatdate(time.time() + 3600, usegmt=True)}, 900, 900), ({}, 0, 1)])
def test_delays_between_attempts(server, tmp_path, headers, least, most, capsys):
    delays = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            delays.append(timeout)

    archive = described(server).archives[0]
    server.refusals[DOC] = [(503, headers)]
    fetch.fetch(archive, tmp_path / DOC, lambda received: None, Clock())
    assert len(delays) == 1 and least <= delays[0] <= most
    assert ("the server answers 503 Service Unavailable; next attempt in" in capsys.readouterr().out) == (least > 5)


def test_delays_double_and_end(server, tmp_path, monkeypatch):
    delays = []

    class Clock(threading.Event):
        def wait(self, timeout=None):
            delays.append(timeout)

    monkeypatch.setattr(fetch, "FIRST_DELAY", 1.0)
    server.refusals[DOC] = [(503, {})] * 20
    with pytest.raises(InputError, match="503 Service Unavailable; run the same command again later to resume"):
        fetch.fetch(described(server).archives[0], tmp_path / DOC, lambda received: None, Clock())
    assert len(delays) == fetch.ATTEMPTS - 1 and len(server.requests) == fetch.ATTEMPTS
    for number, delay in enumerate(delays):
        longest = min(120, 2 ** number)
        assert longest / 2 <= delay <= longest
    assert len({delay / min(120, 2 ** number) for number, delay in enumerate(delays)}) > 5  # jitter


def test_attempts_are_counted_from_the_last_success(server, tmp_path):
    server.cut = lambda length: 20_000 if length > 20_000 else None
    archive = described(server).archives[2]
    fetch.fetch(archive, tmp_path / AUDIO, lambda received: None, threading.Event())
    assert len(server.requests) > 2 * fetch.ATTEMPTS and server.sent[AUDIO] == archive.size


def test_no_server(server, data_set, tmp_path):
    server.close()
    fails(tmp_path, data_set, "no connection to the server; run the same command again later to resume")


# Archives


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, text in members:
            archive.writestr(member, text)
    return content.getvalue()


@pytest.mark.parametrize("archive", [
    b"x" * 1000, changed(zipped({"audio/0.wav": NOISE[:5000]}, NAME, zipfile.ZIP_STORED))], ids=["no zip", "damaged"])
def test_wrong_archives(server, tmp_path, archive):
    server.files = {AUDIO: archive}
    said = fails(tmp_path / "set", described(server), "cannot be unpacked")
    assert str(tmp_path / "set" / AUDIO) in said
    assert content_of(tmp_path / "set").keys() - {"audio/.0.wav.part"} == {AUDIO}


@pytest.mark.parametrize("name", [f"{NAME}/../../evil", "../../evil", "/tmp/evil"])
def test_nothing_leaves_the_folder(tmp_path, name):
    folder = tmp_path / "deep" / "set"
    folder.mkdir(parents=True)
    (tmp_path / AUDIO).write_bytes(zip_of((f"{NAME}/audio/0.wav", b"RIFF"), (name, b"x")))
    fetch.unpack(tmp_path / AUDIO, folder, threading.Event())
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / AUDIO}
    assert len(written) == 2 and all(path.is_relative_to(folder) for path in written)


def test_archives_unpacked_at_the_same_time_share_folders(tmp_path):
    (tmp_path / "set").mkdir()
    paths = []
    for number in range(8):
        paths.append(tmp_path / f"{number}.zip")
        paths[-1].write_bytes(zip_of(*((f"{NAME}/a/b{level}/c/{number}.wav", b"x") for level in range(30))))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: fetch.unpack(path, tmp_path / "set", threading.Event()), paths))
    assert len(list((tmp_path / "set").rglob("*.wav"))) == 8 * 30


def test_the_top_folder_is_omitted_only_if_there_is_one(server, tmp_path):
    server.files = {DOC: zipped({"README.md": b"x"}), META: zipped({"meta.csv": b"x", "audio/0.wav": b"y"}),
                    AUDIO: zipped({"audio/1.wav": b"z"}, "any name")}
    bring(tmp_path, described(server))
    assert content_of(tmp_path) == {"README.md": b"x", "meta.csv": b"x", "audio/0.wav": b"y", "audio/1.wav": b"z"}


def test_unpacking_continues_where_it_was_cut_off(server, tmp_path):
    path = tmp_path / AUDIO
    path.write_bytes(server.files[AUDIO])
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio/0.wav").write_bytes(CONTENT["audio/0.wav"])
    (tmp_path / "audio/1.wav").write_bytes(changed(CONTENT["audio/1.wav"]))  # of the right size only
    (tmp_path / "audio/2.wav").write_bytes(CONTENT["audio/2.wav"][:10])
    (tmp_path / "audio/.3.wav.part").write_bytes(b"x" * 200_000)
    before = (tmp_path / "audio/0.wav").stat().st_mtime_ns
    assert fetch.unpack(path, tmp_path, threading.Event()) == {name: 100_000 for name in FILES[AUDIO]}
    assert content_of(tmp_path) == {AUDIO: server.files[AUDIO],
                                    **{name: CONTENT[name] for name in FILES[AUDIO]}}
    assert (tmp_path / "audio/0.wav").stat().st_mtime_ns == before


# Disks

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("keep", [False, True])
def test_too_little_room_is_told_before_anything_is_fetched(server, data_set, tmp_path, monkeypatch, keep):
    archives = data_set.size if keep else sum(sorted(archive.size for archive in data_set.archives)[-2:])
    needed = 1.2 * data_set.size + archives
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed - 1))
    said = fails(tmp_path, data_set, "the archives and their content need about 0.00 GB, and 0.00 GB are free",
                 keep_archives=keep, jobs=2)
    assert server.requests == [] and ("--keep-archives" in said) == keep
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, needed + 1))
    bring(tmp_path, data_set, keep_archives=keep, jobs=2)


def test_content_larger_than_expected_is_not_unpacked(server, tmp_path, monkeypatch):
    server.files = {AUDIO: zipped({"audio/0.wav": bytes(10_000_000)}, NAME)}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 1_000_000))
    fails(tmp_path, described(server), "needs 10,000,000 bytes, and 1,000,000 are free")
    assert content_of(tmp_path) == server.files
    server.requests.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 20_000_000))
    bring(tmp_path, described(server))
    assert server.requests == [] and (tmp_path / "audio/0.wav").stat().st_size == 10_000_000


@pytest.mark.skipif(os.name == "nt", reason="limits")
@pytest.mark.parametrize("most", [150_001, 300_000])
def test_a_disk_that_fills_up(server, data_set, tmp_path, most):
    """A limit of the size of files does what a full disk does: it takes a part of what is written, and then nothing."""
    import resource

    server.files[AUDIO] = zipped({"audio/0.wav": NOISE[:200_000] + bytes(300_000)}, NAME)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        fails(tmp_path, described(server), r"cannot be written \(File too large\); .* the same command again to resume")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    on_disk = [path.stat().st_size for path in tmp_path.glob(f"{AUDIO}*")]
    assert on_disk == [min(most, len(server.files[AUDIO]))]
    bring(tmp_path, described(server))
    assert content_of(tmp_path) == {**FILES[DOC], **FILES[META], "audio/0.wav": NOISE[:200_000] + bytes(300_000)}
    assert server.sent[AUDIO] < len(server.files[AUDIO]) + (1 << 20)


# The commands


def test_progress_is_one_bar_in_bytes(server, data_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    (tmp_path / f"{AUDIO}.part").write_bytes(changed(server.files[AUDIO])[:300_000])
    bring(tmp_path, data_set)
    last = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    total = f"{data_set.size / 1000:.0f}k"
    assert last.startswith("100%") and f"{total}/{total}" in last and "B/s" in last


def test_the_command_is_interrupted_in_one_line_and_resumed(start, server, data_set, tmp_path):
    server.bytes_per_second = 100_000
    code = (f"import sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from pathlib import Path\n"
            "from task1a.data import download\n"
            "from task1a.data.download import Archive, Release\n"
            "from task1a.errors import run_command\n"
            f"download.release = lambda name: {data_set!r}\n"
            f"sys.exit(run_command(lambda: download.main(['tau2020-development', 'set', '--accept-licence'])))")
    (tmp_path / "command.py").write_text(code, encoding="utf-8")
    part = tmp_path / "set" / f"{AUDIO}.part"
    ended = start("command.py").when(lambda: part.exists() and part.stat().st_size > 0, signal.SIGINT)
    assert (ended.returncode, ended.stderr) == (130, "interrupted; run the same command again to resume\n")
    assert part.stat().st_size > 0
    server.bytes_per_second = None
    bring(tmp_path / "set", data_set)
    assert content_of(tmp_path / "set") == CONTENT and (AUDIO, None) not in server.requests[3:]


def test_the_runner_downloads_the_sets_of_the_challenge(server, data_set, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(downloads, "release", lambda name: asked.append(name) or data_set)
    monkeypatch.chdir(tmp_path)
    options = ["--stage", "data", "--data-root", "development", "--eval-root", "evaluation", "--download"]
    assert run_command(lambda: runner.main(options)) == 2  # the licence
    assert server.requests == []
    with pytest.raises(InputError, match="no column 'scene_label'|lists no clip"):  # the tables that are served
        runner.main([*options, "--accept-licence", "--keep-archives"])
    assert asked[-2:] == ["tau2020-development", "tau2021-evaluation"]
    assert content_of(tmp_path / "development") == content_of(tmp_path / "evaluation") == CONTENT | server.files


def test_the_runner_needs_a_folder_to_download_to(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="--download: give the folder of the development set with --data-root DIR"):
        runner.main(["--stage", "data", "--download", "--accept-licence"])


def test_without_the_option_nothing_touches_the_network(start, toy_data, toy_system, tmp_path):
    code = ("import socket, sys\n"
            "def refuse(*_, **__):\n"
            "    raise SystemExit('the network was touched')\n"
            "socket.getaddrinfo = socket.create_connection = socket.gethostbyname = refuse\n"
            "class Blocked(socket.socket):\n"
            "    def __init__(self, family=-1, *arguments, **settings):\n"
            "        if family in (-1, socket.AF_INET, socket.AF_INET6):\n"
            "            refuse()\n"
            "        super().__init__(family, *arguments, **settings)\n"
            "socket.socket = Blocked\n"
            f"sys.path.insert(0, {str(REPOSITORY)!r})\n"
            "from task1a.pipeline import runner\n"
            "from task1a.errors import run_command\n"
            "sys.exit(run_command(runner.main) or 7 * ('task1a.data.fetch' in sys.modules))")
    arguments = ["--system", str(toy_system), "--data-root", str(toy_data[0]), "--eval-root", str(toy_data[1]),
                 "training.epochs=1", "compression.epochs=1"]
    (tmp_path / "offline.py").write_text(code, encoding="utf-8")
    ended = start("offline.py", *arguments).wait()
    assert ended.returncode == 0, ended.stderr
