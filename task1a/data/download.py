"""Download of the TAU sets: ``python -m task1a.data.download SET DIR``, and ``--download`` of the
runner.

Names, sizes, md5 sums and addresses of the archives are those that dcase_util describes. Its own
downloader (``RemoteFile``, 0.2.20) is not used: it starts an interrupted archive from its first byte,
tries only twice, the second time without checking the server's certificate, and takes every file
that is there for complete, even if its extraction was cut off.

A folder ``DIR/.download`` records which files came from which archive. What is recorded and there is
not fetched again.
"""
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from tqdm import tqdm

from task1a.data.fetch import Archive, fetch, has_size, log, part_of, unpack
from task1a.errors import CommandParser, InputError, counted, run_command
from task1a.files import exclusive, read_json, write_json

SETS = {
    "tau2020-development": "TAUUrbanAcousticScenes_2020_Mobile_DevelopmentSet",
    "tau2021-evaluation": "TAUUrbanAcousticScenes_2021_Mobile_EvaluationSet",
    "tau2022-development": "TAUUrbanAcousticScenes_2022_Mobile_DevelopmentSet",
    "tau2022-evaluation": "TAUUrbanAcousticScenes_2022_Mobile_EvaluationSet",
}
"""Names of the sets on the command line, and the classes of dcase_util that describe them."""

RESERVED = ".download"
"""Folder of the records of a download."""

JOBS = 3
"""Archives that are fetched and unpacked at a time."""

CONTENT_RATIO = 1.2
"""Size of the files over that of their archives: 1.195 for the 7,920 clips of the 2021 evaluation
set."""


@dataclass(frozen=True)
class Release:
    """A published data set."""

    name: str
    authors: str
    licence: str
    page: str
    """address of the page that has the text of the licence"""
    archives: tuple[Archive, ...]

    @property
    def size(self) -> int:
        """Size of all archives in bytes."""
        return sum(archive.size for archive in self.archives)


@dataclass(frozen=True)
class _Task:
    """An archive of a data set that belongs into a folder."""

    folder: Path
    data_set: Release
    archive: Archive

    @property
    def path(self) -> Path:
        return self.folder / self.archive.name

    @property
    def record(self) -> Path:
        """file with the md5 sum of the archive, whether it was kept, and the size of each of its
        files"""
        return self.folder / RESERVED / self.data_set.name / f"{self.archive.name}.json"

    def is_done(self) -> bool:
        """Return whether the files of the archive are there, and the archive only if it is to be
        kept."""
        try:
            record = read_json(self.record)
            if record["md5"] != self.archive.md5:
                return False
            if self.path.exists() and not record["kept"]:
                return False
            return all(has_size(self.folder / name, size) for name, size in record["files"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no record, or a damaged one
            return False

    def bytes_there(self) -> int:
        """Return the number of bytes of the archive that are there."""
        for file in (self.path, part_of(self.path)):
            if file.is_file():
                return min(file.stat().st_size, self.archive.size)
        return 0


def release(name: str) -> Release:
    """Return the description of one of :data:`SETS`, from dcase_util."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "pkg_resources is deprecated")
        from dcase_util import datasets

    # a data set of dcase_util reads whatever it finds in its folder
    with tempfile.TemporaryDirectory() as empty:
        described = getattr(datasets, SETS[name])(data_path=empty)
    archives = []
    for package in described.package_list:
        archives.append(Archive(Path(package["filename"]).name, package["remote_file"], package["remote_bytes"],
                                package["remote_md5"]))
    return Release(described.storage_name, described.dataset_meta["authors"], described.dataset_meta["licence"],
                   archives[0].url.partition("/files/")[0], tuple(archives))


def download(wanted: Mapping[Path, Release], accept_licence: bool = False,
             keep_archives: bool = False, jobs: int = JOBS) -> None:
    """Fetch, check and unpack the archives of data sets that are not recorded in their folders.

    Args:
        wanted: data set by folder. The folder will hold ``meta.csv``, ``audio/`` and so on.
        accept_licence: accept the licences instead of asking on the terminal.
        keep_archives: keep the archives after they have been unpacked.
        jobs: archives at a time.

    Raises:
        InputError: a folder holds something else, a licence is not accepted, there is too little room,
            another process is downloading, or an archive cannot be fetched or unpacked.
    """
    tasks = []
    for folder, data_set in wanted.items():
        check_folder(folder, data_set)
        tasks += [_Task(folder, data_set, archive) for archive in data_set.archives]
    if all(task.is_done() for task in tasks):
        log(f"{', '.join(map(str, wanted))}: complete, nothing to download")
        return
    ask_for_acceptance(wanted, accept_licence)

    with ExitStack() as locks:
        for folder, data_set in wanted.items():
            locks.enter_context(exclusive(folder / RESERVED / ".lock"))
            (folder / RESERVED / data_set.name).mkdir(exist_ok=True)
        # another process may have ended meanwhile
        tasks = [task for task in tasks if not task.is_done()]
        check_room(tasks, keep_archives, jobs)
        download_all(tasks, keep_archives, jobs)


def challenge_sets(development: Path, evaluation: Path | None) -> dict[Path, Release]:
    """Return the data sets of the 2021 challenge by their folders, for :func:`download`."""
    if evaluation is None:
        return {development: release("tau2020-development")}
    if development.resolve() == evaluation.resolve():
        raise InputError(f"{development}: the development and the evaluation set need folders of their own")
    return {development: release("tau2020-development"), evaluation: release("tau2021-evaluation")}


def check_folder(folder: Path, data_set: Release) -> None:
    """Raise InputError if a folder holds anything that this data set did not bring."""
    if (folder / RESERVED / data_set.name).is_dir() or not folder.exists():
        return
    own = {RESERVED}
    for archive in data_set.archives:
        own |= {archive.name, part_of(Path(archive.name)).name}
    others = [entry.name for entry in folder.iterdir() if entry.name not in own]
    if (folder / RESERVED).is_dir():  # another data set was downloaded to here
        others += [entry.name for entry in (folder / RESERVED).iterdir() if entry.is_dir()]
    if others:
        raise InputError(f"{folder}: holds something else already ({min(others)}), which is not "
                         f"overwritten; give an empty folder for {data_set.name}, or use what is there "
                         "without --download")


def ask_for_acceptance(wanted: Mapping[Path, Release], accept_licence: bool) -> None:
    """Print the licences that were not accepted before; raise InputError unless they are now."""
    asked = []
    for folder, data_set in wanted.items():
        if not (folder / RESERVED / data_set.name).is_dir():
            asked.append(data_set.name)
            log(f"{data_set.name}, by {data_set.authors}\n"
                f"  {counted(len(data_set.archives), 'archive')} of {_gigabytes(data_set.size)} for {folder}\n"
                f"  licence: {data_set.licence}; its text is at {data_set.page}")
    if not asked or accept_licence:
        return
    if not sys.stdin.isatty():
        raise InputError(f"{', '.join(asked)}: read the licence, see above, and accept it with "
                         "--accept-licence")
    try:
        answer = input("Do you accept the licence? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise InputError(f"{', '.join(asked)}: the licence was not accepted, and nothing was downloaded")


def check_room(tasks: Sequence[_Task], keep_archives: bool, jobs: int) -> None:
    """Raise InputError if a disk has too little room for the archives and their content."""
    by_disk: dict[int, list[_Task]] = {}
    for task in tasks:
        by_disk.setdefault(task.folder.stat().st_dev, []).append(task)
    for same_disk in by_disk.values():
        missing, content = [], 0.0
        for task in same_disk:
            missing.append(task.archive.size - task.bytes_there())
            # a complete archive may be unpacked in part; unpacking checks the room for the rest
            content += CONTENT_RATIO * task.archive.size if missing[-1] else 0.0
        # unless they are kept, at most as many archives as there are jobs are there at a time
        needed = content + sum(missing if keep_archives else sorted(missing)[-jobs:])
        folder = same_disk[0].folder
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise InputError(f"{folder}: the archives and their content need about {_gigabytes(needed)}, "
                             f"and {_gigabytes(free)} are free on this disk; free some space, or give a "
                             "folder on another disk"
                             + (", or leave out --keep-archives" if keep_archives else ""))


def download_all(tasks: Sequence[_Task], keep_archives: bool, jobs: int) -> None:
    """Fetch and unpack archives in threads, each of which unpacks while the others fetch."""
    stop = Event()
    total, there = 0, 0
    for task in tasks:
        total += task.archive.size
        there += task.bytes_there()
    with tqdm(total=total, initial=there, unit="B", unit_scale=True, dynamic_ncols=True,
              disable=not sys.stderr.isatty()) as progress:

        def advance(received: int) -> None:
            with progress.get_lock():
                progress.update(received)

        def work(task: _Task) -> str:
            fetch(task.archive, task.path, advance, stop)
            files = unpack(task.path, task.folder, stop)
            write_json(task.record, {"md5": task.archive.md5, "kept": keep_archives, "files": files})
            if not keep_archives:
                task.path.unlink()
            return f"{task.archive.name}: {counted(len(files), 'file')}"

        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = [pool.submit(work, task) for task in tasks]
                for done, finished in enumerate(as_completed(futures), start=1):
                    log(f"{finished.result()}; {done} of {counted(len(tasks), 'archive')}")
            except BaseException:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"


def main(argv: Sequence[str] | None = None) -> int:
    """Download one data set; returns 0.

    Raises:
        InputError: see :func:`download`.
    """
    parser = CommandParser(
        prog="python -m task1a.data.download",
        description="Download a TAU Urban Acoustic Scenes set from Zenodo. If it is stopped, the same "
                    "command resumes.")
    parser.add_argument("set", metavar="SET", choices=SETS, help=", ".join(SETS))
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of the data set itself, which "
                        "will hold meta.csv, audio/ and so on")
    parser.add_argument("--accept-licence", action="store_true",
                        help="accept the licence without being asked")
    parser.add_argument("--keep-archives", action="store_true",
                        help="keep the archives after they are unpacked")
    arguments = parser.parse_args(argv)
    download({arguments.folder: release(arguments.set)}, arguments.accept_licence,
             arguments.keep_archives)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
