"""A data set and a system that are small enough to run the whole chain in seconds."""
import os
from pathlib import Path

import pytest
import yaml

# tests run side by side, and threads that wait for each other's cores take many times as long; before torch reads it
os.environ.setdefault("OMP_NUM_THREADS", "1")

from task1a.data import demo  # noqa: E402

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
