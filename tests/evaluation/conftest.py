"""Eight clips whose scores can be worked out by hand: nearly every probability is a power of one half."""
import json

import pandas as pd
import pytest
import yaml

# filename, true label, device, predicted label, p(bus), p(park), p(tram)
CLIPS = [
    ("bus-oslo-1-0-a", "bus", "a", "bus", 0.5, 0.25, 0.25),
    ("bus-oslo-1-1-a", "bus", "a", "park", 0.25, 0.5, 0.25),
    ("park-oslo-2-0-a", "park", "a", "park", 0.25, 0.5, 0.25),
    ("park-oslo-2-1-b", "park", "b", "bus", 1.0, 0.0, 0.0),
    ("bus-oslo-1-0-s1", "bus", "s1", "bus", 0.5, 0.25, 0.25),
    ("park-oslo-2-0-s1", "park", "s1", "tram", 0.25, 0.25, 0.5),
    ("bus-oslo-1-0-s4", "bus", "s4", "bus", 1.0, 0.0, 0.0),
    ("tram-oslo-3-0-s4", "tram", "s4", "tram", 0.25, 0.25, 0.5),
]

def policy(size):
    """Size under one way to count, of 110 values."""
    return {"parameters": 110, "non_zero": 50, "bytes": size, "kB": size / 1000, "KiB": size / 1024,
            "by_bits": {"8": {"parameters": 100}, "16": {"parameters": 10}}}


COMPLEXITY = {
    "policies": {"dcase2021": policy(39540), "paper": policy(32220)}, "models": [{"file": "packed.safetensors"}],
    "limit_policy": "dcase2021", "limit_bytes": 131072, "warning_bytes": 128000, "within_limit": True,
    "trainable_parameters": 8055, "multiply_accumulates": 1000,
    "tensors": [{"model": 0, "name": "stem.0.weight", "shape": [10, 10], "dtype": "int8", "bits": 8, "values": 100,
                 "non_zero": 40, "bytes": 40},
                {"model": 0, "name": "head.bias", "shape": [10], "dtype": "float16", "bits": 16, "values": 10,
                 "non_zero": 10, "bytes": 20}]}


def write_config(folder, **config):
    """Write ``config.yaml`` of a run ``<system>/seed<N>``."""
    given = {"system": folder.parent.name, "seed": int(folder.name.removeprefix("seed")), **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")


@pytest.fixture
def reference():
    return pd.DataFrame([(f"audio/{clip[0]}.wav", clip[1], clip[2]) for clip in CLIPS],
                        columns=["filename", "scene_label", "device"])


@pytest.fixture
def predictions():
    return pd.DataFrame([(f"audio/{clip[0]}.wav", *clip[3:]) for clip in CLIPS],
                        columns=["filename", "scene_label", "bus", "park", "tram"])


@pytest.fixture
def write_run():
    """Writes a run folder with results alone: accuracy by device and ``overall``, log loss overall."""
    def write(runs, system, seed, accuracy, logloss=1.0, data=None, complexity=True, config=None, **more):
        folder = runs / system / f"seed{seed}"
        folder.mkdir(parents=True)
        scores = {name: value if value is None else {"accuracy": value, "logloss": logloss}
                  for name, value in accuracy.items()}
        record = {"data": {"name": "tiny-development", "demo": False, "clips": 8, **(data or {})},
                  "labels": ["bus", "park", "tram"], "overall": scores.pop("overall"), "device_wise": scores,
                  "left_out": [], **more}
        (folder / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
        if complexity:
            (folder / "complexity.json").write_text(json.dumps(COMPLEXITY), encoding="utf-8")
        write_config(folder, **(config or {}))
        return folder
    return write


@pytest.fixture
def runs(tmp_path, write_run):
    """Three runs of one system, the second without a device that the others have, and one of another."""
    folder = tmp_path / "runs"
    write_run(folder, "plain", 0, {"a": 70.0, "s1": 50.0, "b": 10.0, "overall": 60.0}, 1.1)
    write_run(folder, "plain", 1, {"a": 74.0, "s1": 50.0, "b": None, "overall": 62.0}, 1.3)
    write_run(folder, "plain", 10, {"a": 72.0, "s1": 50.0, "b": 30.0, "overall": 61.0}, 1.2)
    write_run(folder, "small", 4, {"a": 70.0, "s1": 60.5, "overall": 65.25}, 1.0125, complexity=False)
    return folder
