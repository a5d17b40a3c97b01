"""A data set and a system that are small enough to run the whole chain in seconds, and a folder for every test."""
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

# tests run side by side, and threads that wait for each other's cores take many times as long; before torch reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")

from task1a.data import demo  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[1]
USERS_FOLDERS = ("cache", "runs", "data")
"""folders of the checkout that hold a user's work, which no test reads or writes"""


def _stay_out_of_users_folders(event: str, arguments: tuple) -> None:
    if event in ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove") and arguments:
        if isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.fsdecode(arguments[0])  # a relative one is below the test's own folder
            for name in USERS_FOLDERS:
                if f"{path}{os.sep}".startswith(f"{CHECKOUT / name}{os.sep}"):
                    raise AssertionError(f"a test uses {path}; tests work in a folder of their own")


sys.addaudithook(_stay_out_of_users_folders)


def _users_files() -> dict[str, tuple[int, int]]:
    """Sizes and times of everything in the checkout but the caches of the tools."""
    files = {}
    for folder, folders, names in os.walk(CHECKOUT):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(".egg-info")
                      and name not in ("__pycache__", *USERS_FOLDERS)]
        for name in names:
            status = os.stat(os.path.join(folder, name))
            files[os.path.join(folder, name)] = status.st_size, status.st_mtime_ns
    return files


@pytest.fixture(scope="session", autouse=True)
def checkout_is_left_alone(tmp_path_factory) -> Iterator[None]:
    """Fixtures work in a folder apart, and the tests leave the checkout as it was."""
    before = _users_files()
    os.chdir(tmp_path_factory.mktemp("fixtures"))
    yield
    assert _users_files() == before


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch) -> None:
    """Every test works in a folder of its own."""
    monkeypatch.chdir(tmp_path)


TOY = {
    "description": "toy",
    "features": {"n_mels": 32, "n_fft": 1024, "window": 1024, "hop": 800, "clip_seconds": 1.0},
    "model": {"tau": 0.4, "dropout": 0.1, "residual_norm": "all"},
    "training": {"epochs": 6, "batch_size": 16, "warmup_epochs": 1, "frequency_mask_bins": 4, "time_mask_frames": 3,
                 "roll_seconds": 0.2, "validation_fraction": 0.25, "calibrate": True},
    "compression": {"enabled": True, "epochs": 4, "ratio": 0.5},
    "submission": {"name": "Toy", "abbreviation": "Toy"},
}


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of a development and an evaluation set of one-second clips."""
    size = demo.DemoSize(train_locations=4, clips_per_location=2, parallel_every=4, test_locations=1,
                         evaluation_locations=1, clip_seconds=1.0)
    return demo.build(tmp_path_factory.mktemp("toy"), size)


@pytest.fixture(scope="session")
def toy_system(tmp_path_factory) -> Path:
    """A configuration of every kind of layer, trained for a few short epochs."""
    path = tmp_path_factory.mktemp("systems") / "toy.yaml"
    path.write_text(yaml.safe_dump(TOY), encoding="utf-8")
    return path
