"""Comparisons of two systems whose differences and p-values can be worked out by hand."""
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import yaml

from evaluation import metrics
from evaluation.compare.__main__ import main
from evaluation.compare.comparison import compare, format_markdown
from evaluation.tables.__main__ import main as tables_main
from task1a.errors import InputError

SCENES = ("bus", "park", "tram")
LOCATIONS = [f"oslo-{number}" for number in range(9)]


def write_data(root, locations=LOCATIONS, clips=4):
    """A development set without audio: of each location some test clips of one scene."""
    rows = [(f"audio/{SCENES[number % 3]}-{location}-{clip}-a.wav", SCENES[number % 3], location, "a")
            for number, location in enumerate(locations) for clip in range(clips)]
    test = pd.DataFrame(rows, columns=["filename", "scene_label", "identifier", "source_label"])
    train = pd.DataFrame([(f"audio/{scene}-rome-0-a.wav", scene, "rome-0", "a") for scene in SCENES],
                         columns=test.columns)
    setup = root / "evaluation_setup"
    setup.mkdir(parents=True)
    for path, frame in ((root / "meta.csv", pd.concat([train, test])),
                        (setup / "fold1_train.csv", train[["filename", "scene_label"]]),
                        (setup / "fold1_test.csv", test[["filename"]]),
                        (setup / "fold1_evaluate.csv", test[["filename", "scene_label"]])):
        frame.to_csv(path, sep="\t", index=False, lineterminator="\n")
    return test.rename(columns={"source_label": "device"})


def write_predicted_run(runs, system, seed, reference, right, name="tiny-development", **config):
    """A run that is right, with p = 1/2, about ``right`` of the clips of each location, and gives the others 1/4.

    Its predictions are in random order, so that clips must be paired by name.
    """
    number = reference.groupby("identifier").cumcount()
    wrong = reference.scene_label.map(dict(zip(SCENES, SCENES[1:] + SCENES[:1], strict=True)))
    decided = np.where(number < reference.identifier.map(right), reference.scene_label, wrong)
    table = pd.DataFrame({"filename": reference.filename, "scene_label": decided,
                          **{scene: np.where(decided == scene, 0.5, 0.25) for scene in SCENES}})
    results = metrics.evaluate(reference, table)
    folder = runs / system / f"seed{seed}"
    (folder / "predictions").mkdir(parents=True)
    table.sample(frac=1, random_state=len(system)).to_csv(folder / "predictions" / "test.csv", sep="\t", index=False)
    record = {"data": {"name": name, "demo": False, "clips": len(reference)}, **results, "left_out": []}
    (folder / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump({"system": system, "seed": seed, **config}), encoding="utf-8")


@pytest.fixture
def compared(tmp_path):
    """Two systems of one seed; of four clips a location the first has 4, 3, ..., 3, 2 right and the second 2."""
    reference = write_data(tmp_path / "data")
    right = dict(zip(LOCATIONS, (4, 3, 3, 3, 3, 3, 3, 3, 2), strict=True))
    write_predicted_run(tmp_path / "runs", "plain", 0, reference, right)
    write_predicted_run(tmp_path / "runs", "small", 0, reference, dict.fromkeys(LOCATIONS, 2))
    return tmp_path


def test_comparison_by_hand(compared):
    comparison = compare(compared / "runs" / "plain", compared / "runs" / "small", str(compared / "data"))
    test = comparison["accuracy"]
    # three locations per scene, so each weighs 1/9: (2 + 7 + 0) / 4 / 9 = 25 %
    assert (test["first"], test["second"], test["difference"]) == pytest.approx((75, 50, 25))
    assert test["p_locations"] == 4 / 512  # all eight that differ exchanged or none, and the ninth either way
    assert (comparison["locations"], comparison["paired_predictions"], test["p_with_seeds"]) == (9, 36, None)
    assert comparison["logloss"]["difference"] == pytest.approx(-np.log(2) / 4)
    for metric in ("accuracy", "logloss"):
        assert "plain is significantly better (p = 0.0078 over locations; one seed" in comparison[metric]["verdict"]
    other = compare(compared / "runs" / "small", compared / "runs" / "plain", str(compared / "data"))["accuracy"]
    assert other["difference"] == pytest.approx(-25) and other["verdict"] == test["verdict"]
    assert other["interval"] == pytest.approx([-end for end in reversed(test["interval"])])


def test_comparison_as_text(compared):
    text = format_markdown(compare(compared / "runs" / "plain", compared / "runs" / "small", str(compared / "data")))
    assert text.startswith("## plain less small\n\n|          | plain | small | Difference |")
    assert "| Accuracy | 75.0  | 50.0  | +25.0      |" in text and "| 0.008        | -             |" in text
    assert "## plain less small, by device\n\n| Device | Accuracy |" in text and "| a      | +25.0    |" in text
    assert "1 seed, 9 locations, 36 paired predictions. Difference of accuracy by seed: 0: +25.0." in text


def test_equal_systems_are_not_significantly_different(compared):
    shutil.copytree(compared / "runs" / "small", compared / "runs" / "same")
    comparison = compare(compared / "runs" / "same", compared / "runs" / "small", str(compared / "data"))
    assert comparison["accuracy"]["verdict"] == "Accuracy: not significant (p = 1 over locations)."


def test_few_locations_are_never_significant(tmp_path):
    reference = write_data(tmp_path / "data", LOCATIONS[:3])
    for system, right in (("plain", 4), ("small", 0)):
        write_predicted_run(tmp_path / "runs", system, 0, reference, dict.fromkeys(LOCATIONS, right))
    comparison = compare(tmp_path / "runs" / "plain", tmp_path / "runs" / "small", str(tmp_path / "data"))
    assert "not significant (p = 0.25 over locations; 3 locations are too few)" in comparison["accuracy"]["verdict"]
    assert "| none " in format_markdown(comparison)


def test_folds_have_a_data_set_each(tmp_path):
    for seed, prefix in enumerate(("oslo", "bonn")):
        reference = write_data(tmp_path / f"fold{seed}" / "set", [f"{prefix}-{n}" for n in range(6)])
        for system, right in (("plain", 3), ("small", 2)):
            write_predicted_run(tmp_path / "runs", system, seed, reference, dict.fromkeys(reference.identifier, right),
                                data={"root": str(tmp_path / f"fold{seed}" / "set")})
    write_predicted_run(tmp_path / "runs", "plain", 5, reference, dict.fromkeys(reference.identifier, 0))
    comparison = compare(tmp_path / "runs" / "plain", tmp_path / "runs" / "small", str(tmp_path / "fold{seed}" / "set"))
    test = comparison["accuracy"]
    assert test["by_seed"] == pytest.approx({"0": 25, "1": 25})
    assert (comparison["seeds"], comparison["locations"], comparison["paired_predictions"]) == ([0, 1], 12, 48)
    assert test["p_locations"] == 2 / 4096 and not test["within_noise"]
    assert "plain is significantly better (p = 0.00049 over locations; p = " in comparison["accuracy"]["verdict"]
    with pytest.raises(InputError, match=r"plain/seed1 against .*fold0.*put \{seed\} into --data-root"):
        compare(tmp_path / "runs" / "plain", tmp_path / "runs" / "small", str(tmp_path / "fold0" / "set"))


def test_results_that_are_not_of_the_predictions_are_refused(compared):
    path = compared / "runs" / "small" / "seed0" / "predictions" / "test.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.25"), encoding="utf-8")
    with pytest.raises(InputError, match="small/seed0 against .*the probabilities sum to"):
        compare(compared / "runs" / "plain", compared / "runs" / "small", str(compared / "data"))
    (compared / "runs" / "small" / "seed0" / "predictions" / "test.csv").write_bytes(
        (compared / "runs" / "plain" / "seed0" / "predictions" / "test.csv").read_bytes())
    with pytest.raises(InputError, match="accuracy 75 instead of 50"):
        compare(compared / "runs" / "plain", compared / "runs" / "small", str(compared / "data"))


def test_settings_of_one_system_are_compared_and_named(tmp_path):
    """Folders of one name; then a folder of two settings, whose runs are compared one by one but not averaged."""
    reference = write_data(tmp_path / "data")
    for folder, right, epochs in (("long", 3, 100), ("short", 2, 30)):
        for seed in (0, 1):
            write_predicted_run(tmp_path / folder, "plain", seed, reference, dict.fromkeys(LOCATIONS, right),
                                training={"epochs": epochs})
    short, long = tmp_path / "short" / "plain", tmp_path / "long" / "plain"
    comparison = compare(short, long, str(tmp_path / "data"))
    assert comparison["differences"] == {"training.epochs": (30, 100)} and comparison["seeds"] == [0, 1]
    assert comparison["accuracy"]["difference"] == pytest.approx(-25)
    text = format_markdown(comparison)
    assert text.startswith("## plain, training.epochs=30 less plain, training.epochs=100\n")
    assert "\n- They differ in training.epochs=30 against training.epochs=100.\n" in text
    shutil.rmtree(short / "seed1")
    shutil.copytree(long / "seed1", short / "seed1")
    with pytest.raises(InputError, match="plain/seed0 and plain/seed1 cannot be averaged: training.epochs=30 against "
                                         "training.epochs=100; compare single runs"):
        compare(short, long, str(tmp_path / "data"))
    single = compare(short / "seed0", short / "seed1", str(tmp_path / "data"))
    assert single["differences"] == {"training.epochs": (30, 100), "seed": (0, 1)} and single["first"] == "plain/seed0"


def test_seeds_are_paired_by_their_number(tmp_path):
    """Seeds 1 and 2 are common; the others of the first have other scores."""
    reference = write_data(tmp_path / "data")
    for system, by_seed in (("plain", {0: 4, 1: 3, 2: 1}), ("small", {1: 2, 2: 2, 3: 0})):
        for seed, right in by_seed.items():
            write_predicted_run(tmp_path / "runs", system, seed, reference, dict.fromkeys(LOCATIONS, right))
    comparison = compare(tmp_path / "runs" / "plain", tmp_path / "runs" / "small", str(tmp_path / "data"))
    assert comparison["accuracy"]["by_seed"] == pytest.approx({"1": 25, "2": -25})
    assert (comparison["accuracy"]["first"], comparison["accuracy"]["second"]) == pytest.approx((50, 50))


@pytest.mark.parametrize(("systems", "message"), [
    (("plain", "plain"), "cannot be compared with itself"),
    (("plain", "none"), "plain has 0; none has none"),
])
def test_what_cannot_be_compared_is_named(compared, systems, message):
    with pytest.raises(InputError, match=message):
        compare(*(compared / "runs" / system for system in systems), str(compared / "data"))


def test_single_runs_are_compared_on_the_data_that_they_were_made_with(compared, capsys):
    for config in (compared / "runs").rglob("config.yaml"):
        with open(config, "a", encoding="utf-8") as file:
            file.write(f"data: {{root: {compared / 'data'}}}\n")
    runs = [compared / "runs" / "plain" / "seed0", compared / "runs" / "small" / "seed0"]
    assert main([*map(str, runs), "--json", str(compared / "out.json")]) == 0
    written = json.loads((compared / "out.json").read_text(encoding="utf-8"))
    assert (written["first"], written["second"]) == ("plain/seed0", "small/seed0")
    assert written["device_wise"]["a"]["accuracy"]["difference"] == pytest.approx(25)
    assert format_markdown(written) == capsys.readouterr().out
    with pytest.raises(InputError, match="give two runs or two systems"):
        compare(runs[0], compared / "runs" / "small")
    with pytest.raises(InputError, match="^--json .*evaluation.json: is also an input"):
        main([*map(str, runs), "--json", str(runs[1] / "evaluation.json")])


def test_devices_are_compared_on_their_own_clips(tmp_path):
    reference = write_data(tmp_path / "data")
    table = pd.read_csv(tmp_path / "data" / "meta.csv", sep="\t")
    table.loc[table.filename.str.contains("-[23]-a.wav"), "source_label"] = "b"
    table.to_csv(tmp_path / "data" / "meta.csv", sep="\t", index=False)
    write_predicted_run(tmp_path / "runs", "plain", 0, reference, dict.fromkeys(LOCATIONS, 4))
    write_predicted_run(tmp_path / "runs", "small", 0, reference, dict.fromkeys(LOCATIONS, 3))
    devices = compare(tmp_path / "runs" / "plain", tmp_path / "runs" / "small", str(tmp_path / "data"))["device_wise"]
    assert devices["a"]["accuracy"]["difference"] == 0 and devices["a"]["accuracy"]["p_locations"] == 1
    assert devices["b"]["accuracy"]["difference"] == pytest.approx(50)
    assert devices["b"]["accuracy"]["p_locations"] == 2 / 512


def test_differences_by_device_weigh_its_scenes_alike(tmp_path):
    """Device b has four clips of each location of the bus and one of each other; of the buses alone it is better."""
    reference = write_data(tmp_path / "data")
    table = pd.read_csv(tmp_path / "data" / "meta.csv", sep="\t")
    table.loc[(table.scene_label == "bus") | table.filename.str.endswith("-0-a.wav"), "source_label"] = "b"
    table.to_csv(tmp_path / "data" / "meta.csv", sep="\t", index=False)
    reference["device"] = table.set_index("filename").source_label.loc[reference.filename].to_numpy()
    for system, right in (("plain", (3, 0, 0)), ("small", (1, 1, 0))):  # of bus, park and tram
        write_predicted_run(tmp_path / "runs", system, 0, reference, dict(zip(LOCATIONS, right * 3, strict=True)))
    comparison = compare(tmp_path / "runs" / "plain", tmp_path / "runs" / "small", str(tmp_path / "data"))
    scores = []
    for system in ("plain", "small"):
        found = pd.read_csv(tmp_path / "runs" / system / "seed0" / "predictions" / "test.csv", sep="\t")
        both = reference.merge(found, on="filename")[lambda clips: clips.device == "b"]
        scores.append(100 * sklearn.metrics.balanced_accuracy_score(both.scene_label_x, both.scene_label_y))
    assert scores == pytest.approx([25, 125 / 3])  # 75, 0, 0 and 25, 100, 0 %; over clips the first would be better
    assert comparison["device_wise"]["b"]["accuracy"]["difference"] == pytest.approx(scores[0] - scores[1])


def test_demo_data_is_marked(compared):
    for path in (compared / "runs").rglob("evaluation.json"):
        path.write_text(path.read_text(encoding="utf-8").replace('"demo": false', '"demo": true'), encoding="utf-8")
    text = format_markdown(compare(compared / "runs" / "plain", compared / "runs" / "small", str(compared / "data")))
    assert text.startswith("## plain less small (demo data)\n") and "by device (demo data)" in text
    assert "\n- Demo data: figures say nothing about real recordings.\n" in text


def test_command_prints_and_writes(compared, capsys):
    table, out = compared / "mine.yaml", compared / "out"
    table.write_text(yaml.safe_dump({"title": "t", "rows": [{"system": "plain", "label": "plain"}]}), encoding="utf-8")
    assert tables_main([str(table), "--runs", str(compared / "runs"), "--out", str(out), "--compare", "plain", "small",
                        "--data-root", str(compared / "data")]) == 0
    printed = capsys.readouterr().out
    assert printed == "\n".join((out / f"{name}.md").read_text(encoding="utf-8")
                                for name in ("mine", "compare_plain_small"))
    stored = json.loads((out / "compare_plain_small.json").read_text(encoding="utf-8"))
    assert stored["accuracy"]["within_noise"] is False and stored["locations"] == 9
    assert stored["accuracy"]["p_locations"] == 4 / 512 and stored["accuracy"]["p_with_seeds"] is None
