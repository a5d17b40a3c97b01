"""Two systems are compared clip by clip, and clips are found by name, whatever the order of the predictions."""
import numpy as np
import pandas as pd
import pytest

from evaluation import comparison, metrics

SCENES = ["bus", "park", "tram"]
TRUTH = np.tile([0, 1, 2], 8)
CLIPS = pd.DataFrame({
    "filename": [f"audio/{number}.wav" for number in range(24)],
    "scene_label": np.array(SCENES)[TRUTH],
    "identifier": [f"oslo-{number % 12}" for number in range(24)],
    "device": "a",
    "split": "test",
})


def predicted(seed):
    """Probabilities of the clips, in their order."""
    return np.random.default_rng(seed).dirichlet(np.ones(3), len(CLIPS))


def test_the_order_of_the_predictions_does_not_matter(tmp_path, write_run, monkeypatch):
    monkeypatch.setattr(comparison, "read_development", lambda root: CLIPS)
    for seed, system in enumerate(("first", "second")):
        table = pd.DataFrame(predicted(seed), columns=SCENES)
        table.insert(0, "filename", CLIPS.filename)
        table.insert(1, "scene_label", table[SCENES].idxmax(axis=1))
        overall = metrics.evaluate(CLIPS, table)["overall"]
        folder = write_run(tmp_path, system, 0, {"overall": overall["accuracy"]}, overall["logloss"])
        (folder / "predictions").mkdir()
        table.sample(frac=1, random_state=seed).to_csv(folder / "predictions" / "test.csv", sep="\t", index=False)
    tests = comparison.compare(tmp_path, "first", "second", "anywhere").tests
    first, second = (predicted(seed)[np.arange(len(CLIPS)), TRUTH] for seed in range(2))
    assert tests["logloss"].difference == pytest.approx(np.log(second / first).mean())
