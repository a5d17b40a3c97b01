"""What the stages of the chain give to its two trainings: clips, classes, seeds and rates."""
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from task1a import model_file
from task1a.data.splits import split_validation
from task1a.features.audio import read_clip
from task1a.features.log_mel import log_mel
from task1a.pipeline import runner
from task1a.training import compress as compressing
from task1a.training import train as training


@pytest.fixture(scope="module")
def development_set(toy_data, tmp_path_factory):
    """A data set whose tables list the clips in an order that is neither that of their names nor of their scenes."""
    root = shutil.copytree(toy_data[0], tmp_path_factory.mktemp("set") / "development")
    for seed, name in enumerate(("meta.csv", "evaluation_setup/fold1_train.csv")):
        table = pd.read_csv(root / name, sep="\t").sample(frac=1, random_state=seed)
        table.to_csv(root / name, sep="\t", index=False)
    return root


@pytest.fixture(scope="module")
def chain(development_set, toy_system, tmp_path_factory):
    """Goes through the stages up to compression; the jobs of the two trainings, and the run folder."""
    folder, jobs, train, compress = tmp_path_factory.mktemp("chain"), [], training.train, compressing.compress
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(training, "train", lambda job, *initial: jobs.append(job) or train(job, *initial))
        patch.setattr(compressing, "compress", lambda job, *arguments: jobs.append(job) or compress(job, *arguments))
        runner.main(["--system", str(toy_system), "--data-root", str(development_set), "--device", "cpu", "--seed", "7",
                     "--stage", "data,features,train,compress", "data.workers=1", "model.front_end=freqnorm",
                     "training.epochs=2", "compression.epochs=1", "compression.learning_rate=0.02",
                     "compression.warmup_epochs=0.5"])
    return jobs, folder / "runs/toy/seed7"


@pytest.fixture(scope="module")
def listed(development_set, chain):
    """The training split as its tables list it, and its features as they are stored."""
    meta, split = (pd.read_csv(development_set / name, sep="\t") for name in (
        "meta.csv", "evaluation_setup/fold1_train.csv"))
    table, settings = meta[meta.filename.isin(split.filename)].reset_index(drop=True), chain[0][0].spec.features
    features = [log_mel(read_clip(development_set / name, settings), settings) for name in table.filename]
    return table, np.stack(features).astype(np.float16).astype(np.float32)


def rows_of(examples, features):
    """Which of all clips, found by their features, the examples are."""
    clips = examples.read(np.arange(len(examples)))
    return np.array([np.flatnonzero((features == clip).all(axis=(1, 2))).item() for clip in clips])


def test_both_trainings_learn_from_and_validate_on_the_split_by_location(chain, listed):
    table, features = listed
    for job in chain[0]:
        parts = [rows_of(examples, features) for examples in (job.train, job.validation)]
        assert sorted(np.concatenate(parts)) == list(range(len(table)))
        places = [set(table.identifier[part]) for part in parts]
        assert all(places) and not places[0] & places[1]
        held_out = split_validation(table, 0.25, seed=0)  # whatever the seed of the run
        assert sorted(parts[1]) == np.flatnonzero(held_out).tolist()
        for part, examples in zip(parts, (job.train, job.validation), strict=True):
            assert [job.spec.labels[target] for target in examples.targets] == table.scene_label[part].tolist()
        assert job.seed == 7


def test_both_trainings_have_their_own_epochs_and_rates(chain):
    train, compress = (job.config for job in chain[0])
    assert (train.epochs, train.learning_rate, train.warmup_epochs) == (2, 0.06, 1)
    # the final model alone is calibrated
    assert not train.calibrate
    assert compress == replace(train, epochs=1, learning_rate=0.02, warmup_epochs=0.5, calibrate=True)


def test_the_statistics_of_freqnorm_are_those_of_the_clips_that_are_learnt_from(chain, listed):
    jobs, folder = chain
    learnt_from = listed[1][rows_of(jobs[0].train, listed[1])].astype(float)
    front_end = model_file.load(folder / "train/model.safetensors")[0].front_end
    np.testing.assert_allclose(front_end.running_mean, learnt_from.mean(axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(front_end.running_var, learnt_from.var(axis=(0, 2)), rtol=1e-5)
