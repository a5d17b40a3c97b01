"""The whole chain on a toy system: the files that it writes, what it does again, and what it survives."""
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from submission.validate import validate
from task1a import model_file
from task1a.data.splits import split_validation
from task1a.errors import FallsShort, InputError
from task1a.features.audio import read_clip
from task1a.features.log_mel import log_mel
from task1a.files import exclusive, read_json
from task1a.pipeline import runner
from task1a.predict import clips, predictions
from task1a.training.calibrate import best_temperature

pytestmark = pytest.mark.usefixtures("blank_figures")
REPOSITORY = Path(__file__).resolve().parents[2]
TASK1A = REPOSITORY / "task1a.py"
RUN = Path("runs/toy/seed0")
LABEL = "Lastname_INST_task1a_1"
FILES = {
    "config.yaml", "environment.json", "data.json", "features.json", "complexity.json", "evaluation.json",
    "report.html", "compress/calibration.json", "train/model.safetensors", "train/checkpoint.pt", "train/history.csv",
    "compress/packed.safetensors", "compress/packed.safetensors.xz", "compress/checkpoint.pt", "compress/history.csv",
    "predictions/test.csv", "predictions/evaluation.csv",
    f"submission/{LABEL}/{LABEL}.output.csv", f"submission/{LABEL}/{LABEL}.meta.yaml",
    f"submission/{LABEL}.report.md", "submission/Lastname_INST_task1.zip",
    *(f"stages/{name}.json" for name in ("data", "features", "train", "compress", "complexity", "predict", "evaluate",
                                         "package")),
}

# when training starts, the results of an earlier model are removed, so that they cannot be taken for new ones
AFTER_TRAINING = {"config.yaml", "environment.json", "data.json", "features.json", "compress/checkpoint.pt",
                  "compress/history.csv", *(name for name in FILES if name.startswith(("train/", "stages/")))}


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if path.is_file() and path.name != ".lock"}


def said_by(capsys, *arguments: str) -> dict[str, str]:
    """What the runner says of each stage."""
    runner.main(arguments)
    return dict(re.findall(r"^\[(\w+)\] (?:running: )?(.*)$", capsys.readouterr().out, re.MULTILINE))


def test_exactly_these_files_are_written(undisturbed):
    assert files(undisturbed / RUN) == FILES
    assert {path.name for path in (undisturbed / "cache").glob("*/*") if path.name != ".lock"} == {
        "log_mel.float16", "index.csv", "features.yaml"}


def test_the_summary_is_what_the_files_say(undisturbed):
    said = (undisturbed / "said.txt").read_text(encoding="utf-8")
    results, complexity = (read_json(undisturbed / RUN / name) for name in ("evaluation.json", "complexity.json"))
    for device in ("a", "s6"):
        score = results["device_wise"][device]
        assert re.search(rf"^{device} +{score['accuracy']:.1f}% .* {score['logloss']:.3f} ", said, re.MULTILINE)
    assert f"{complexity['policies']['dcase2021']['bytes']:,} B" in said
    assert "demo data: figures say nothing about real recordings" in said
    assert "demo data cannot be submitted" in said and "Lastname_INST_task1.zip" in said


def test_predictions_are_those_of_the_stored_model_for_every_clip(undisturbed, toy_data):
    for name, root in zip(("test", "evaluation"), toy_data, strict=True):
        written = pd.read_csv(undisturbed / RUN / "predictions" / f"{name}.csv", sep="\t")
        listed = pd.read_csv(root / "evaluation_setup" / "fold1_test.csv", sep="\t")
        assert set(written.filename) == set(listed.filename)
        np.testing.assert_allclose(written.iloc[:, 2:].sum(axis=1), 1, atol=1e-6)


def test_predictions_come_from_the_packed_file(undisturbed, toy_data):
    """Computed again with nothing but the packed file and the recordings, they are the written ones to the digit."""
    model, spec = model_file.load(undisturbed / RUN / "compress" / "packed.safetensors")
    written = pd.read_csv(undisturbed / RUN / "predictions" / "test.csv", sep="\t")[:8]
    features = np.stack([log_mel(read_clip(toy_data[0] / name, spec.features), spec.features)
                         for name in written.filename])
    read = features.astype(np.float16).astype(np.float32)
    outputs = clips.logits(model, lambda indices: read[indices], 8, 64, torch.device("cpu"))
    probabilities = torch.softmax(outputs.double(), 1).numpy()
    expected = predictions.table(written.filename, probabilities, spec.labels)
    assert list(expected.scene_label) == list(written.scene_label)
    np.testing.assert_allclose(written[list(spec.labels)], expected[list(spec.labels)], rtol=1e-4)


def test_the_complexity_is_that_of_the_packed_file(undisturbed):
    counted = read_json(undisturbed / RUN / "complexity.json")
    tensors = load_file(undisturbed / RUN / "compress" / "packed.safetensors")
    assert counted["policies"]["dcase2021"]["bytes"] == sum(
        int(value.count_nonzero()) * value.element_size() for value in tensors.values())
    assert {value.dtype for value in tensors.values()} == {torch.int8, torch.float16, torch.float32}


def test_the_metadata_tells_how_the_size_was_reached(undisturbed):
    text = (undisturbed / RUN / "submission" / LABEL / f"{LABEL}.meta.yaml").read_text(encoding="utf-8")
    assert "complexity_management: pruning, weight quantization, knowledge distillation\n" in text


def test_the_zip_is_well_formed_and_says_why_it_is_not_submittable(undisturbed):
    path = undisturbed / RUN / "submission" / "Lastname_INST_task1.zip"
    findings = validate(path)
    assert {finding.level for finding in findings} == {"not_submittable"}
    inside = f"Lastname_INST_task1/task1/{LABEL}/{LABEL}"
    assert zipfile.ZipFile(path).namelist() == [f"{inside}.meta.yaml", f"{inside}.output.csv"]


def test_a_second_run_skips_every_stage_and_changes_nothing(again, arguments, capsys):
    before = {name: (again / RUN / name).stat().st_mtime_ns for name in FILES}
    said = said_by(capsys, *arguments)
    assert set(said.values()) == {"up to date"} and len(said) == 8
    assert before == {name: (again / RUN / name).stat().st_mtime_ns for name in FILES}


def test_a_run_that_is_up_to_date_imports_nothing_heavy(again, arguments):
    heavy = {"torch", "torchaudio", "scipy", "sklearn", "matplotlib", "jinja2", "dcase_util", "sed_eval"}
    code = (f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from task1a.pipeline import runner; runner.main()\n"
            f"print(sorted({heavy} & sys.modules.keys()))")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.count("] up to date") == 8 and done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("change, outdated", [
    ("evaluation.time_rolls=2", {"complexity": "passes changed", "predict": "passes changed"}),
    ("submission.name=New", {"package": "submission.name changed"}),
    ("evaluation.batch_size=7", {}),
    ("data.workers=1", {}),
])
def test_a_change_runs_what_depends_on_it(again, arguments, capsys, change, outdated):
    said = said_by(capsys, *arguments, change)
    assert {name: said[name] for name in outdated} == outdated
    first = next(iter(outdated), None)
    order = list(said)
    assert all(said[name] == "up to date" for name in (order[:order.index(first)] if first else order))


def test_a_finished_model_is_calibrated_without_training(again, arguments, capsys):
    packed = again / RUN / "compress" / "packed.safetensors"
    calibrated = packed.read_bytes()
    runner.main([*arguments, "--stage", "compress", "training.calibrate=false"])
    assert not re.search(r"^epoch ", capsys.readouterr().out, re.MULTILINE)
    assert packed.read_bytes() != calibrated and not (packed.parent / "calibration.json").exists()
    runner.main([*arguments, "--stage", "compress"])
    assert not re.search(r"^epoch ", capsys.readouterr().out, re.MULTILINE)
    assert packed.read_bytes() == calibrated


PILOT = {"calibrate": True, "validation_fraction": 0.0, "pilot_fraction": 0.25}


@pytest.fixture
def of_pilots(again, toy_data):
    """Computes the temperature from nothing but the recordings and the files of the models of some pilots."""
    def compute(*pilots: str) -> float:
        root = toy_data[0]
        meta = pd.read_csv(root / "meta.csv", sep="\t").set_index("filename")
        clips = meta.loc[pd.read_csv(root / "evaluation_setup/fold1_train.csv", sep="\t").filename].reset_index()
        held_out = clips[split_validation(clips, 0.25, seed=0)]
        probabilities = []
        for pilot in pilots:
            model, spec = model_file.load(again / "runs" / pilot / "seed0/compress/packed.safetensors")
            features = np.stack([log_mel(read_clip(root / name, spec.features), spec.features)
                                 for name in held_out.filename]).astype(np.float16).astype(np.float32)
            with torch.no_grad():
                probabilities.append(torch.softmax(model(torch.from_numpy(features)[:, None]), dim=1).numpy())
        targets = np.array([spec.labels.index(label) for label in held_out.scene_label])
        return best_temperature(np.log(np.mean(probabilities, axis=0)), targets, held_out.source_label.to_numpy(str),
                           held_out.identifier.to_numpy(str))
    return compute


def test_a_pilot_calibrates_a_system_that_learns_from_all_clips(system, arguments, again, of_pilots, capsys):
    given = ["--system", system("final", training=PILOT), *arguments[2:], "--stage", "data,features,train,compress"]
    runner.main(given)
    said = capsys.readouterr().out
    assert re.findall(r"\n(hold-out model \w+|\[train\]|\[compress\])", "\n" + said) == [
        "hold-out model final_pilot", "[train]", "[compress]", "[train]", "[compress]"]
    learnt = [(int(train), int(held_out)) for train, held_out in re.findall(
        r"^(\d+) training clips, (\d+) validation clips", said, re.MULTILINE)]
    assert learnt[0][1] > 0 and learnt[1:] == [(sum(learnt[0]), 0)] * 2  # the pilot before compression is that of toy
    record = read_json(again / "runs/final/seed0/compress/calibration.json")
    assert record["temperature"] == pytest.approx(of_pilots("final_pilot"), rel=1e-3)
    assert record["clips"] == learnt[0][1]
    assert not list((again / "runs").glob("final*/seed0/train/calibration.json"))
    assert not (again / "runs/final_pilot/seed0/compress/calibration.json").exists()

    packed = again / "runs/final/seed0/compress/packed.safetensors"
    scaled = load_file(packed)["head.weight_scale"]
    runner.main([*given, "training.calibrate=false"])
    assert not re.search(r"^(epoch|hold-out model) ", capsys.readouterr().out, re.MULTILINE)
    plain = load_file(packed)["head.weight_scale"]
    torch.testing.assert_close(plain, scaled * record["temperature"], rtol=1e-5, atol=0)

    assert said_by(capsys, *given)["compress"] == "training.calibrate, pilots changed"
    torch.testing.assert_close(load_file(packed)["head.weight_scale"], scaled, rtol=0, atol=0)
    (again / "runs/final_pilot/seed0/compress/packed.safetensors").unlink()
    with pytest.raises(InputError, match="final_pilot.*packed.safetensors: no such model; finish the run final_pilot"):
        runner.main([*given[:-1], "complexity"])


def test_pilots_calibrate_an_ensemble_as_a_whole(system, arguments, again, of_pilots, capsys):
    member = {"training": {"calibrate": False, "validation_fraction": 0.0, "epochs": 1}, "compression": {"epochs": 1}}
    system("one", **member)
    system("other", **member, features={"f_max": 6000.0})
    given = ["--system", system("both", ensemble=["one", "other"], training=PILOT), *arguments[2:]]
    runner.main(given)
    runs = {name: again / "runs" / name / "seed0" for name in ("one", "other", "both")}
    record = read_json(runs["both"] / "compress/calibration.json")
    assert record["temperature"] == pytest.approx(of_pilots("one_pilot", "other_pilot"), rel=1e-3)
    assert abs(np.log(record["temperature"])) > 1e-3  # or the powers below would show nothing
    for split in ("test", "evaluation"):
        one, other, both = (pd.read_csv(run / f"predictions/{split}.csv", sep="\t") for run in runs.values())
        labels = list(both)[2:]
        powers = ((one[labels] + other[labels]) / 2) ** (1 / record["temperature"])
        np.testing.assert_allclose(both[labels], powers.div(powers.sum(axis=1), axis=0), rtol=1e-5, atol=1e-9)
        assert (both[labels].idxmax(axis=1) == both.scene_label).all()
    assert read_json(runs["both"] / "evaluation.json")["before_scaling"]["temperature"] == record["temperature"]
    said = said_by(capsys, *given)
    assert {reason for reason in said.values() if not reason.startswith("skipped")} == {"up to date"}
    said = said_by(capsys, *given, "training.calibrate=false")
    assert said["predict"] == "pilots changed" and not (runs["both"] / "compress/calibration.json").exists()


@pytest.mark.parametrize(("settings", "message"), [
    ({"training": {**PILOT, "init_from": "toy"}}, "training.pilot_fraction: contradicts training.init_from"),
    ({"training": PILOT, "ensemble": ["toy"]}, "calibrates the ensemble as a whole; set training.calibrate to false in "
                                               "toy.yaml"),
])
def test_what_a_pilot_cannot_calibrate_is_named(system, arguments, settings, message):
    with pytest.raises(InputError, match=message):
        runner.main(["--system", system("final", **settings), *arguments[2:]])


def test_other_labels_of_the_test_split_are_evaluated_again(again, arguments, toy_data, capsys):
    shutil.copytree(toy_data[0], again / "set")
    [name] = pd.read_csv(again / "set/evaluation_setup/fold1_test.csv", sep="\t").filename[:1]
    for table in ("meta.csv", "evaluation_setup/fold1_evaluate.csv"):
        text = (again / "set" / table).read_text(encoding="utf-8")
        line = next(line for line in text.splitlines() if line.startswith(f"{name}\t"))
        label = "tram" if "\ttram" not in line else "bus"
        other = "\t".join([name, label, *line.split("\t")[2:]])
        (again / "set" / table).write_text(text.replace(line, other), encoding="utf-8")
    said = said_by(capsys, *arguments, "--data-root", str(again / "set"))
    assert said["train"] == said["compress"] == "up to date" and said["evaluate"] == "data changed"
    table = pd.read_csv(RUN / "predictions/test.csv", sep="\t").set_index("filename")
    labels = pd.read_csv(again / "set/evaluation_setup/fold1_evaluate.csv", sep="\t").set_index("filename").scene_label
    losses = [-np.log(table.loc[clip, label]) for clip, label in labels.items()]
    assert read_json(RUN / "evaluation.json")["overall"]["logloss"] == pytest.approx(np.mean(losses), rel=1e-6)


def test_lost_and_changed_files_are_made_again(again, arguments, capsys):
    (again / RUN / "evaluation.json").unlink()
    with open(again / RUN / "predictions" / "evaluation.csv", "a") as handle:
        handle.write("stale\n")
    before = (again / RUN / "train" / "model.safetensors").stat().st_mtime_ns
    said = said_by(capsys, *arguments)
    assert said["predict"] == "predictions/evaluation.csv was changed"
    assert said["evaluate"] == "evaluation.json is missing"
    assert said["train"] == "up to date" and said["package"] == "up to date"
    assert before == (again / RUN / "train" / "model.safetensors").stat().st_mtime_ns


def test_a_lost_cache_is_computed_again_and_nothing_is_trained(again, arguments, capsys):
    shutil.rmtree(again / "cache")
    said = said_by(capsys, *arguments)
    assert said.pop("features") == "its cache is gone or was changed"
    assert set(said.values()) == {"up to date"}


def test_force_does_a_stage_again_with_the_same_result(again, arguments, capsys):
    model = again / RUN / "train" / "model.safetensors"
    before, when = model.read_bytes(), model.stat().st_mtime_ns
    assert said_by(capsys, *arguments, "--stage", "train", "--force") == {"train": "running"}
    assert model.read_bytes() == before and model.stat().st_mtime_ns > when
    assert files(again / RUN) == AFTER_TRAINING


def test_a_stage_whose_predecessors_are_missing_says_so(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="stage data comes first: not done yet; run --stage all, or add it"):
        runner.main([*arguments, "--stage", "predict"])


def test_a_stage_does_not_use_results_of_another_configuration(again, arguments):
    with pytest.raises(InputError, match="stage train comes first: model.tau changed"):
        runner.main([*arguments, "--stage", "predict", "model.tau=0.6"])
    assert "tau: 0.4" in (again / RUN / "config.yaml").read_text(encoding="utf-8")


def test_without_an_evaluation_set_there_is_a_result_but_no_package(again, arguments, capsys):
    without = [*arguments[:4], *arguments[6:], "--runs", "others", "training.epochs=1"]
    said = said_by(capsys, *without)
    assert said["package"].startswith("skipped: there is no evaluation set")
    assert (again / "others/toy/seed0/evaluation.json").is_file()
    assert not (again / "others/toy/seed0/submission").exists()
    with pytest.raises(InputError, match="there is no evaluation set to submit"):
        runner.main([*without, "--stage", "package"])


def test_a_model_over_the_limit_ends_with_status_1_and_no_zip(again, arguments):
    """Every time that its size is judged, and only then."""
    large = [*arguments, "--runs", "large", "training.epochs=1", "model.tau=4", "training.batch_size=64",
             "compression.enabled=false"]
    for judged in ("all", "all", "complexity", "package", "data,complexity"):
        with pytest.raises(FallsShort):
            runner.main([*large, "--stage", judged])
    assert not read_json(again / "large/toy/seed0/complexity.json")["within_limit"]
    assert not list((again / "large").rglob("*.zip"))
    for not_judged in ("data", "features,train", "predict,evaluate"):
        assert runner.main([*large, "--stage", not_judged]) == 0


def test_a_system_without_compression_is_its_vanilla_model(again, system, arguments, capsys):
    """Its training was done before, under another name, and is not done again."""
    plain = system("plain", compression={"enabled": False}, training={"calibrate": False})
    said = said_by(capsys, "--system", plain, *arguments[2:])
    assert said["compress"] == "skipped: compression.enabled is false"
    own, other = again / "runs/plain/seed0", again / RUN
    assert not (own / "compress").exists()
    for name in ("model.safetensors", "history.csv", "checkpoint.pt"):
        assert (own / "train" / name).read_bytes() == (other / "train" / name).read_bytes()
    assert read_json(own / "complexity.json")["models"][0]["file"] == "model.safetensors"
    with pytest.raises(InputError, match="--stage compress: compression.enabled is false"):
        runner.main(["--system", plain, *arguments[2:], "--stage", "compress"])


def test_the_same_training_is_taken_and_another_seed_is_trained(system, arguments, capsys):
    runner.main(["--system", system("twin"), *arguments[2:], "--stage", "data,features,train"])
    assert "\ntoy/seed0 has the same training; its model is copied" in capsys.readouterr().out
    runner.main([*arguments, "--stage", "data,features,train", "--seed", "1"])
    said = capsys.readouterr().out
    assert "epoch 3/3" in said and "the same training" not in said


def test_other_runs_can_teach(again, system, arguments):
    taught = system("taught", compression={"teachers": ["vanilla", "toy/seed0", "toy/seed1"]})
    with pytest.raises(InputError, match=r"compression.teachers: .*model.safetensors: no such model; train toy/seed1"):
        runner.main(["--system", taught, *arguments[2:]])
    runner.main([*arguments, "--stage", "data,features,train", "--seed", "1", "training.epochs=1"])
    runner.main(["--system", taught, *arguments[2:], "--stage", "data,features,train,compress"])
    assert (again / "runs/taught/seed0/compress/packed.safetensors").is_file()
    runner.main([*arguments, "--stage", "train", "--seed", "1", "training.epochs=2", "--force"])
    with pytest.raises(InputError, match="compress: the finished model .* by another: teachers changed. Nothing was"):
        runner.main(["--system", taught, *arguments[2:]])


def test_an_ensemble_runs_its_members_averages_them_and_adds_their_sizes(again, system, arguments, capsys):
    system("other", model={"residual_norm": "input"})
    both = system("both", ensemble=["toy", "other"])
    said = said_by(capsys, "--system", both, *arguments[2:])
    assert said["train"] == "skipped: its models are trained as runs of their own (toy, other)"
    runs = {name: again / "runs" / name / "seed0" for name in ("toy", "other", "both")}
    tables = {name: pd.read_csv(run / "predictions" / "evaluation.csv", sep="\t") for name, run in runs.items()}
    numbers = {name: table.iloc[:, 2:].to_numpy() for name, table in tables.items()}
    np.testing.assert_allclose(numbers["both"], (numbers["toy"] + numbers["other"]) / 2, atol=1e-8)
    sizes = {name: read_json(run / "complexity.json")["policies"]["dcase2021"]["bytes"] for name, run in runs.items()}
    assert sizes["both"] == sizes["toy"] + sizes["other"]
    text = (runs["both"] / "submission" / LABEL / f"{LABEL}.meta.yaml").read_text(encoding="utf-8")
    assert "ensemble_method_subsystem_count: 2\n" in text and "decision_making: average\n" in text
    said = said_by(capsys, "--system", both, *arguments[2:])
    assert {reason for reason in said.values() if not reason.startswith("skipped")} == {"up to date"}


def test_an_ensemble_of_ensembles_is_refused(system, arguments):
    system("both", ensemble=["toy"])
    for name, members in (("all", ["toy", "both"]), ("itself", ["itself"])):
        with pytest.raises(InputError, match="must be a system of a single model"):
            runner.main(["--system", system(name, ensemble=members), *arguments[2:]])


def test_each_clip_is_predicted_by_the_model_of_its_device(again, system, arguments, toy_data, capsys):
    evaluation = again / "evaluation"
    shutil.copytree(toy_data[1], evaluation)
    table = evaluation / "evaluation_setup" / "fold1_test.csv"
    names = pd.read_csv(table).filename.tolist()
    devices = [("b", "unknown", "s1")[number % 3] for number in range(len(names))]
    # with a learning rate of almost 0, fine-tuning changes the running statistics only
    training = {"init_from": "toy", "learning_rate": 1e-30, "weight_decay": 0.0, "calibrate": False, "epochs": 1}
    tuned = system("tuned", device_models=["b", "s1"], evaluation={"batch_size": 7}, training=training,
                   compression={"ratio": 0.0, "epochs": 1})
    given = ["--system", tuned, "--data-root", str(toy_data[0]), "--eval-root", str(evaluation)]

    with pytest.raises(InputError, match=r"device_models needs .* device_id"):
        runner.main(given)
    table.write_text("filename\tdevice_id\n" + "".join(
        f"{name}\t{device}\n" for name, device in zip(names, devices, strict=True)))
    assert said_by(capsys, *given)["train"] == ("skipped: its models are trained as runs of their own "
                                                "(tuned_b, tuned_s1)")
    runs = {name: again / "runs" / name / "seed0" for name in ("toy", "tuned_b", "tuned_s1", "tuned")}
    clips = pd.read_csv(toy_data[0] / "meta.csv", sep="\t").set_index("filename").source_label
    for split, device_of in (("test", clips), ("evaluation", dict(zip(names, devices, strict=True)))):
        tables = {name: pd.read_csv(run / "predictions" / f"{split}.csv", sep="\t").set_index("filename")
                  for name, run in runs.items()}
        assert tables["tuned"].index.tolist() == tables["toy"].index.tolist()
        for name, row in tables["tuned"].iterrows():
            source = {"b": "tuned_b", "s1": "tuned_s1"}.get(device_of[name], "toy")
            assert row.tolist()[1:] == pytest.approx(tables[source].loc[name].tolist()[1:], abs=1e-6)
        assert not np.allclose(tables["tuned_b"].iloc[:, 1:], tables["tuned_s1"].iloc[:, 1:], atol=1e-4)

    weights = {name: load_file(run / "train" / "model.safetensors") for name, run in runs.items() if name != "tuned"}
    for name, value in weights["toy"].items():
        assert torch.equal(weights["tuned_b"][name], value) == ("running" not in name), name
    sizes = {name: read_json(run / "complexity.json")["policies"]["dcase2021"]["bytes"] for name, run in runs.items()}
    assert sizes["tuned"] == sizes["tuned_b"] > sizes["toy"]  # the largest; half of the general model is pruned

    said = said_by(capsys, *given)
    assert {reason for reason in said.values() if not reason.startswith("skipped")} == {"up to date"}
    # another general model makes everything that came from it outdated
    runner.main([*arguments, "training.learning_rate=0.01", "--stage", "train,compress", "--force"])
    with pytest.raises(InputError, match="stage train comes first: initial model changed"):
        runner.main([*given, "--stage", "evaluate"])


@pytest.mark.parametrize(("settings", "message"), [
    ({"init_from": "nobody"}, "training.init_from: .*nobody.seed0.* train nobody/seed0 first"),
    ({"init_from": "toy", "devices": ["s9", "a"]}, "training.devices: there are no training clips of s9; .* a, b, c"),
])
def test_what_cannot_be_fine_tuned_is_named(system, arguments, settings, message):
    with pytest.raises(InputError, match=message):
        runner.main(["--system", system("tuned", training=settings), *arguments[2:]])


def test_a_model_of_another_kind_is_not_fine_tuned(system, arguments):
    tuned = system("tuned", training={"init_from": "toy"}, model={"residual_norm_shortcut": 0.2})
    with pytest.raises(InputError, match="the initial model has different network settings"):
        runner.main(["--system", tuned, *arguments[2:]])


def test_only_the_clips_of_the_devices_are_trained_on(system, arguments, toy_data, capsys):
    tuned = system("tuned", training={"devices": ["b"], "validation_fraction": 0.0})
    runner.main(["--system", tuned, *arguments[2:], "--stage", "data,features,train"])
    train = pd.read_csv(toy_data[0] / "evaluation_setup" / "fold1_train.csv", sep="\t").filename
    assert f"\n{train.str.endswith('-b.wav').sum()} training clips, 0 validation clips" in capsys.readouterr().out


def test_a_data_root_is_used_also_by_the_demo_system(toy_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runner.main(["--data-root", str(toy_data[0]), "--stage", "data"])
    said = capsys.readouterr().out
    assert said.startswith("note: this is the small demo system on your data set")
    assert read_json(Path("runs/demo-demo-development/seed0/data.json"))["clips"]["test"] == 90
    with pytest.raises(InputError, match="no data set: give its folder with --data-root DIR"):
        runner.main(["--eval-root", str(toy_data[1]), "--stage", "data"])
    assert not Path("cache").exists()  # the demo set was not synthesised


def test_what_would_fail_at_the_end_is_told_at_the_beginning(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for override, message in (("submission.authors=nobody.yaml", "nobody.yaml: no such file with authors"),
                              ("training.batch_size=100000", r"a training step of this network takes at least [\d.]+")):
        with pytest.raises(InputError, match=message):
            runner.main([*arguments, override, "features.clip_seconds=300.0", "features.hop=100"])
    assert "[data]" not in capsys.readouterr().out


def test_evaluation_needs_no_cache(again, arguments, capsys):
    shutil.rmtree("cache")
    assert said_by(capsys, *arguments, "--stage", "evaluate", "--force") == {"evaluate": "running"}
    assert not Path("cache").exists()
    with pytest.raises(InputError, match="stage features comes first: its cache is gone"):
        runner.main([*arguments, "--stage", "predict", "--force"])


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("system: [", encoding="utf-8"),
                                    lambda path: path.write_text("system: other\n", encoding="utf-8")])
def test_a_damaged_configuration_of_a_finished_run_is_written_anew(again, arguments, damage, capsys):
    path = RUN / "config.yaml"
    before = path.read_bytes()
    damage(path)
    assert set(said_by(capsys, *arguments).values()) == {"up to date"}
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"inputs": 1, "outputs": {}}',
                                     '{"format": 0, "inputs": {}, "outputs": {}}'])
def test_a_damaged_record_of_a_stage_is_named_and_made_anew(again, arguments, content, capsys):
    record = RUN / "stages" / "complexity.json"
    before = record.read_bytes()
    record.write_text(content, encoding="utf-8")
    assert said_by(capsys, *arguments)["complexity"] == "stages/complexity.json is damaged or of another version"
    assert record.read_bytes() == before


@pytest.mark.parametrize("name, content", [("evaluation.json", "{}"), ("evaluation.json", "[1"),
                                           ("complexity.json", "{")])
def test_a_damaged_result_does_not_end_another_stage(again, arguments, name, content, capsys):
    (RUN / name).write_text(content, encoding="utf-8")
    assert runner.main([*arguments, "--stage", "data"]) == 0
    assert re.search(rf"^note: .*{name}: damaged", capsys.readouterr().out, re.MULTILINE)


def test_a_run_that_is_worked_on_is_left_alone(again, arguments):
    with exclusive(again / RUN / ".lock"), pytest.raises(InputError, match="another process is working on this run"):
        runner.main(arguments)


@pytest.mark.parametrize("wrong, message", [
    (["--stage", "trian"], "--stage trian: no such stage; did you mean train?"),
    (["training.epoch=3"], "did you mean 'training.epochs'?"),
    (["--data-root", "nowhere"], "meta.csv: no such file"),
    (["data.source=demo", "--stage", "nothing"], "no such stage"),
    (["--seed", "one"], "invalid int value: 'one'; see task1a.py --help"),
])
def test_wrong_arguments_are_one_line(arguments, wrong, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        runner.main([*arguments, *wrong])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_traceback_and_status_2(start):
    finished = start(TASK1A, "--data-root", "nowhere", "data.source=tau_layout").wait()
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1 and finished.stderr.startswith("error: nowhere")


def some_rows_written(folder: Path) -> bool:
    return any(np.fromfile(path, np.uint16).any() for path in folder.glob("cache/*/log_mel.float16"))


def some_epochs_done(folder: Path, stage: str = "train") -> bool:
    return (folder / RUN / stage / "checkpoint.pt").exists()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("stage, condition, unfinished", [
    pytest.param("features", some_rows_written, "features.json", marks=pytest.mark.slow),
    ("train", some_epochs_done, "train/model.safetensors"),
    pytest.param("compress", partial(some_epochs_done, stage="compress"), "compress/packed.safetensors",
                 marks=pytest.mark.slow),
])
def test_a_killed_run_ends_like_an_undisturbed_one(
        undisturbed, start, arguments, tmp_path, stage, condition, unfinished):
    start(TASK1A, *arguments).when(lambda: condition(tmp_path), signal.SIGKILL)
    assert not (tmp_path / RUN / unfinished).exists()
    finished = start(TASK1A, *arguments).wait()
    assert finished.returncode == 0, finished.stderr
    if stage != "features":
        assert re.search(rf"resuming after epoch \d of {3 if stage == 'train' else 2}", finished.stdout)
    assert files(tmp_path / RUN) == FILES
    timed = {f"{stage}/{name}" for stage in ("train", "compress") for name in ("checkpoint.pt", "history.csv")} | {
        "stages/train.json", "stages/compress.json"}  # hold the seconds of each epoch
    for name in FILES - timed:
        assert (tmp_path / RUN / name).read_bytes() == (undisturbed / RUN / name).read_bytes(), name
    for path in undisturbed.glob("cache/*/*"):
        assert (tmp_path / path.relative_to(undisturbed)).read_bytes() == path.read_bytes()
    for name in ("train", "compress"):
        histories = [pd.read_csv(folder / RUN / name / "history.csv").drop(columns="seconds")
                     for folder in (tmp_path, undisturbed)]
        pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_damaged_clips_stop_the_run_or_are_left_out_and_listed(arguments, toy_data, tmp_path, monkeypatch, capsys):
    for name, root in zip(("development", "evaluation"), toy_data, strict=True):
        shutil.copytree(root, tmp_path / name)
    reference = pd.read_csv(tmp_path / "development" / "evaluation_setup" / "fold1_test.csv", sep="\t").filename
    for path in (tmp_path / "development" / reference[3], tmp_path / "evaluation" / "audio" / "7.wav"):
        path.write_bytes(path.read_bytes()[:5000])
    monkeypatch.chdir(tmp_path)
    own = [*arguments[:2], "--data-root", "development", "--eval-root", "evaluation", "training.epochs=1"]
    with pytest.raises(InputError, match="problems, listed above; .* --skip-damaged"):
        runner.main(own)
    assert f"{reference[3]} (truncated: " in capsys.readouterr().out
    runner.main([*own, "--skip-damaged"])
    said = capsys.readouterr().out
    assert "excluded: 1 damaged test clip\n" in said and f"left out: {reference[3]}: truncated" in said
    assert read_json(tmp_path / RUN / "evaluation.json")["left_out"] == [reference[3]]
    assert len(pd.read_csv(tmp_path / RUN / "predictions" / "test.csv", sep="\t")) == len(reference) - 1
    assert "audio/7.wav" not in (tmp_path / RUN / "predictions" / "evaluation.csv").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="SIGINT")
def test_ctrl_c_ends_with_one_line(start, arguments, tmp_path):
    ended = start(TASK1A, *arguments).when(lambda: some_epochs_done(tmp_path), signal.SIGINT)
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "interrupted; run the same command again to resume"


@pytest.mark.slow
def test_two_processes_train_one_model(undisturbed, start, arguments, tmp_path):
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    finished = start(*torchrun, TASK1A, *arguments, "--stage", "train", "training.epochs=2", "--force").wait()
    assert finished.returncode == 0, finished.stderr
    assert "2 processes" in finished.stdout and finished.stdout.count("epoch 2/2") == 1
    assert files(tmp_path / RUN) == AFTER_TRAINING
    trained, before = (load_file(folder / RUN / "train" / "model.safetensors") for folder in (tmp_path, undisturbed))
    assert all(value.isfinite().all() and value.shape == before[name].shape for name, value in trained.items())
    assert not torch.equal(trained["head.weight"], before["head.weight"])


def test_under_torchrun_only_training_runs(arguments, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun is for --stage train or --stage compress alone"):
        runner.main(arguments)
