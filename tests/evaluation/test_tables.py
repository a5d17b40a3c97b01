"""Tables of synthetic runs, whose means, deviations and tests can be worked out by hand."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from evaluation import metrics
from evaluation.tables import (
    FORMATS,
    SYSTEMS,
    TABLES,
    compare,
    evaluate,
    format_comparison,
    format_csv,
    format_latex,
    format_markdown,
    main,
    read_runs,
    read_table,
    verdict,
)
from task1a.errors import InputError, run_command

TABLE = {"title": "Table 9: odd_names & more", "rows": [
    {"system": "plain", "label": "plain | 100 %",
     "published": {"parameters": "8.1k", "devices": {"a": 73.1, "s1": 58.2}, "overall": 58.9, "deviation": 0.8,
                   "seeds": 6}},
    {"system": "small", "label": "[small]", "published": {"bits": "8/16 bit", "size": "61.0 KB", "overall": 75.3}},
    {"system": "absent", "label": "absent"},
]}

NOTES = [
    "Ours: test split of tiny-development, 8 clips. Accuracy in percent, the mean of the class-wise accuracies; ± is "
    "the sample deviation (n - 1) over seeds.",
    "Not comparable with the published figures: those are of the test split of TAU Urban Acoustic Scenes 2020 Mobile "
    "(2,968 clips), ours are not.",
]

MARKDOWN = """\
## Table 9: odd_names & more

| System         |           | Seeds | Parameters | KiB, dcase2021 |        KiB, paper |          A |         S1 |   B |    Overall |      Log loss |
| -------------- | --------- | ----: | ---------: | -------------: | ----------------: | ---------: | ---------: | --: | ---------: | ------------: |
| plain \\| 100 % | ours      |     3 |      8,055 |           38.6 |              31.5 | 72.0 ± 2.0 | 50.0 ± 0.0 |     | 61.0 ± 1.0 | 1.200 ± 0.100 |
|                | published |     6 |       8.1k |                |                   |       73.1 |       58.2 |     | 58.9 ± 0.8 |               |
| [small]        | ours      |     1 |            |                |                   |       70.0 |       60.5 |     |       65.2 |         1.012 |
|                | published |       |            |                | 8/16 bit, 61.0 KB |            |            |     |       75.3 |               |
| absent         | ours      |       |            |                |                   |            |            |     |            |               |
|                | published |       |            |                |                   |            |            |     |            |               |

"""  # noqa: E501

LATEX_ROWS = r"""
\begin{tabular}{llrrrrrrrrr}
\hline
System &  & Seeds & Parameters & KiB, dcase2021 & KiB, paper & A & S1 & B & Overall & Log loss \\
\hline
plain \textbar{} 100 \% & ours & 3 & 8,055 & 38.6 & 31.5 & 72.0 $\pm$ 2.0 & 50.0 $\pm$ 0.0 &  & 61.0 $\pm$ 1.0 & 1.200 $\pm$ 0.100 \\
 & published & 6 & 8.1k &  &  & 73.1 & 58.2 &  & 58.9 $\pm$ 0.8 &  \\
{[}small] & ours & 1 &  &  &  & 70.0 & 60.5 &  & 65.2 & 1.012 \\
 & published &  &  &  & 8/16 bit, 61.0 KB &  &  &  & 75.3 &  \\
absent & ours &  &  &  &  &  &  &  &  &  \\
 & published &  &  &  &  &  &  &  &  &  \\
\hline
\end{tabular}
"""  # noqa: E501

CSV = """\
table,label,system,data,demo,comparable,seeds,parameters,kib_dcase2021,kib_paper,accuracy_a,deviation_a,accuracy_s1,\
deviation_s1,accuracy_b,deviation_b,accuracy_overall,deviation_overall,logloss,deviation_logloss,published_a,\
published_s1,published_b,published_overall,published_deviation,published_seeds,published_parameters,published_bits,\
published_size,notes
mine,plain | 100 %,plain,tiny-development,False,False,0 1 10,8055,38.613281,31.464844,72.0,2.0,50.0,0.0,,,61.0,1.0,1.2,\
0.1,73.1,58.2,,58.9,0.8,6,8.1k,,,"NOTES"
mine,[small],small,tiny-development,False,False,4,,,,70.0,,60.5,,,,65.25,,1.0125,,,,,75.3,,,,8/16 bit,61.0 KB,"NOTES"
mine,absent,absent,tiny-development,False,False,,,,,,,,,,,,,,,,,,,,,,,,"NOTES"
"""

# of FACTS: accuracy by device a b c s1 ... s6, overall, deviation
TYPED = {
    "bcresnet_asc_1": ([73.1, 61.2, 65.3, 58.2, 57.3, 66.2, 51.5, 51.5, 46.3], 58.9, 0.8, None),
    "bcresnet_asc_1_resnorm": ([76.4, 65.1, 68.3, 66.0, 62.2, 69.7, 63.0, 63.0, 58.3], 65.8, 0.7, 6),
    "bcresnet_asc_1_resnorm_noshortcut": ([68.2, 62.1, 58.6, 64.2, 65.3, 66.3, 65.1, 63.8, 61.3], 63.9, 0.7, None),
    "bcresnet_asc_8_resnorm": ([81.3, 74.4, 74.2, 75.6, 73.1, 78.6, 73.0, 74.0, 72.7], 75.2, 0.4, 6),
    "bcresnet_asc_8_resnorm_noshortcut": ([78.3, 73.5, 69.1, 73.8, 72.9, 75.6, 72.2, 72.5, 71.0], 73.2, 0.3, None),
}

SCENES = ("bus", "park", "tram")
LOCATIONS = [f"oslo-{number}" for number in range(9)]


def write_run(runs, system, seed, accuracy, logloss=1.0, data=None, complexity=True, config=None, **more):
    """A run folder with results alone: accuracy by device and ``overall``, log loss overall."""
    folder = runs / system / f"seed{seed}"
    folder.mkdir(parents=True)
    scores = {name: value if value is None else {"accuracy": value, "logloss": logloss}
              for name, value in accuracy.items()}
    record = {"data": {"name": "tiny-development", "demo": False, "clips": 8, **(data or {})}, "labels": list(SCENES),
              "overall": scores.pop("overall"), "device_wise": scores, "left_out": [], **more}
    (folder / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    if complexity:
        tensors = [("stem.weight", 8000, False), ("norm.bias", 55, False), ("norm.running_mean", 1830, True),
                   ("stem.weight_scale", 3, False)]
        counted = {"tensors": [{"name": name, "values": values, "statistics": statistics}
                               for name, values, statistics in tensors],
                   "policies": {"dcase2021": {"KiB": 38.61328125}, "paper": {"KiB": 31.46484375}}}
        (folder / "complexity.json").write_text(json.dumps(counted), encoding="utf-8")
    if config:
        (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def write_table(path, tree=None):
    path.write_text(yaml.safe_dump(tree or TABLE, allow_unicode=True), encoding="utf-8")
    return str(path)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "mine.yaml")


@pytest.fixture
def runs(tmp_path):
    """Three runs of the first row, one without a device that the others have; one of the second; none of the third."""
    folder = tmp_path / "runs"
    write_run(folder, "plain", 0, {"a": 70.0, "s1": 50.0, "b": 10.0, "overall": 60.0}, 1.1)
    write_run(folder, "plain", 1, {"a": 74.0, "s1": 50.0, "b": None, "overall": 62.0}, 1.3)
    write_run(folder, "plain", 10, {"a": 72.0, "s1": 50.0, "b": 30.0, "overall": 61.0}, 1.2)
    write_run(folder, "small", 4, {"a": 70.0, "s1": 60.5, "overall": 65.25}, 1.0125, complexity=False)
    return folder


def test_markdown(table, runs):
    notes = "".join(f"- {note}\n" for note in NOTES)
    assert format_markdown(evaluate(read_table(table), runs)) == MARKDOWN + notes


def test_latex(table, runs):
    text = format_latex(evaluate(read_table(table), runs))
    assert LATEX_ROWS in text
    assert r"\caption{Table 9: odd\_names \& more}" in text
    assert text.endswith("ours are not.\n\\end{table*}\n") and "the mean of the class-wise accuracies; $\\pm$" in text


def test_csv(table, runs):
    assert format_csv(evaluate(read_table(table), runs)) == CSV.replace("NOTES", " ".join(NOTES))


def test_latex_escapes_every_special_character(tmp_path, runs):
    label = r"\ ~ ^ & % $ # _ { } < > [ * ±"
    tree = {"title": "t", "rows": [{"system": "plain", "label": label}]}
    text = format_latex(evaluate(read_table(write_table(tmp_path / "t.yaml", tree)), runs))
    assert (r"\textbackslash{} \textasciitilde{} \textasciicircum{} \& \% \$ \# \_ \{ \} \textless{} \textgreater{} "
            r"{[} {*} $\pm$ & ours") in text


def test_demo_data_is_called_so_everywhere(tmp_path, table):
    runs = tmp_path / "runs"
    write_run(runs, "plain", 0, {"a": 70.0, "overall": 60.0}, data={"name": "demo-development", "demo": True})
    results = evaluate(read_table(table), runs)
    for form in FORMATS.values():
        assert "Demo data: figures say nothing about real recordings" in form(results)
        assert "Not comparable with the published figures" in form(results)
    assert "(ours: demo data)" in format_markdown(results) and "| ours (demo data) |" in format_markdown(results)
    assert "ours: demo data" in format_latex(results) and "demo-development,True,False" in format_csv(results)


@pytest.mark.parametrize(("data", "labels", "left_out", "comparable"), [
    ({}, None, [], True),
    ({"clips": 2967}, None, ["audio/one.wav"], True),
    ({"clips": 2970}, None, [], False),
    ({"name": "tau-like"}, None, [], False),
    ({"demo": True}, None, [], False),
    ({}, ["bus"], [], False),
])
def test_only_the_tau_test_split_is_comparable(tmp_path, table, data, labels, left_out, comparable):
    from submission.rules import TASK1A_2021
    data = {"name": "TAU-urban-acoustic-scenes-2020-mobile-development", "clips": 2968, **data}
    write_run(tmp_path / "runs", "plain", 0, {"overall": 60.0}, data=data, left_out=left_out,
              labels=labels or list(TASK1A_2021.labels))
    results = evaluate(read_table(table), tmp_path / "runs")
    said = " ".join(results.notes)
    assert results.comparable is comparable
    assert ("the same test split" in said) is comparable and ("Not comparable" in said) is not comparable
    assert ("Damaged test clips were left out: plain/seed0 (1)." in said) is bool(left_out)


def test_mixed_data_sets_are_refused(table, runs):
    write_run(runs, "small", 5, {"overall": 60.0}, data={"name": "elsewhere"})
    with pytest.raises(InputError, match="different data sets.*plain/seed0 is of tiny.*small/seed5 of elsewhere"):
        evaluate(read_table(table), runs)


def test_demo_data_beside_other_data_is_refused(table, runs):
    write_run(runs, "small", 5, {"overall": 60.0}, data={"demo": True})
    with pytest.raises(InputError, match=r"small/seed5 of tiny-development \(demo data\)"):
        evaluate(read_table(table), runs)


def test_other_systems_are_no_part_of_the_table(table, runs):
    write_run(runs, "demo", 0, {"overall": 60.0}, data={"name": "demo-development", "demo": True})
    assert not evaluate(read_table(table), runs).demo


def test_folds_may_be_seeds_and_are_named(table, runs):
    write_run(runs, "small", 1, {"overall": 60.0}, data={"clips": 8})
    write_run(runs, "small", 2, {"overall": 60.0}, data={"clips": 12})
    notes = " ".join(evaluate(read_table(table), runs).notes)
    assert "8 to 12 clips" in notes and "Folds: the seeds were tested on different clips" in notes
    assert "Rows with different seeds are not over the same test clips." in notes


def test_folds_of_the_same_size_are_told_apart_by_their_clips(tmp_path, table):
    runs = tmp_path / "runs"
    for seed, clip in enumerate(("one", "two")):
        predictions = write_run(runs, "plain", seed, {"overall": 60.0}) / "predictions"
        predictions.mkdir()
        (predictions / "test.csv").write_text(f"filename\tscene_label\naudio/{clip}.wav\tbus\n", encoding="utf-8")
    assert "Folds" in " ".join(evaluate(read_table(table), runs).notes)


def test_one_seed_with_two_test_splits_is_refused(table, runs):
    write_run(runs, "small", 1, {"overall": 60.0}, data={"clips": 12})
    with pytest.raises(InputError, match="plain/seed1 and small/seed1 were tested on different clips"):
        evaluate(read_table(table), runs)


def test_recipes(tmp_path):
    """Runs of a row have the same; changes from the shipped one are named, those without effect are not."""
    runs = tmp_path / "runs"
    from dataclasses import asdict

    from task1a.config import load
    shipped = asdict(load(SYSTEMS / "bcresnet_asc_1.yaml", ["compression.epochs=7", "data.root=x"]))
    shipped = json.loads(json.dumps(shipped))
    changed = {**shipped, "training": {**shipped["training"], "epochs": 60}}
    fast = {**changed, "training": {**changed["training"], "precision": "bf16-mixed"}}
    write_run(runs, "bcresnet_asc_1", 0, {"overall": 60.0}, config=shipped)
    assert "recipe" not in " ".join(evaluate(read_table("table3"), runs).notes)
    write_run(runs, "bcresnet_asc_1", 1, {"overall": 60.0}, config=changed)
    with pytest.raises(InputError, match=r"trained differently \(training.epochs: 100 and 60\)"):
        evaluate(read_table("table3"), runs)
    other = tmp_path / "other"
    write_run(other, "bcresnet_asc_1", 0, {"overall": 60.0}, config=changed)
    write_run(other, "bcresnet_asc_1", 1, {"overall": 60.0}, config=fast)
    assert evaluate(read_table("table3"), other).notes[-1] == (
        "Not the recipe of system_configs (in parentheses): training.epochs=60 (100): bcresnet_asc_1.")


def test_unfinished_runs_are_named(table, runs):
    (runs / "small" / "seed7").mkdir()
    (runs / "small" / "seedling").mkdir()
    assert evaluate(read_table(table), runs).notes[-1] == "Not finished, and not in the table: small/seed7."


@pytest.mark.parametrize(("record", "message"), [
    ("{", "damaged; run the stage again: --stage evaluate"),
    ("[]", "not the results of a run"),
    ('{"data": {"name": "x"}}', "not the results of a run"),
])
def test_damaged_results_are_named(table, runs, record, message):
    path = runs / "small" / "seed4" / "evaluation.json"
    path.write_text(record, encoding="utf-8")
    with pytest.raises(InputError, match=f"seed4.evaluation.json: {message}"):
        evaluate(read_table(table), runs)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("complexity.json", b"{", "damaged; run the stage again: --stage complexity"),
    ("complexity.json", b"{}", "not the size of a run"),
    ("config.yaml", b"a: [", "not valid YAML"),
    ("config.yaml", b"- a", "not the configuration of a run"),
    ("predictions/test.csv", b"\xff", "not a table: not UTF-8 text"),
])
def test_damaged_records_beside_the_results_are_named(table, runs, name, content, message):
    path = runs / "plain" / "seed1" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}: {message}"):
        evaluate(read_table(table), runs)


def test_a_score_that_is_no_number_is_named(table, runs):
    write_run(runs, "small", 5, {"overall": "high"})
    with pytest.raises(InputError, match="overall: accuracy: must be a number"):
        evaluate(read_table(table), runs)


@pytest.mark.parametrize(("tree", "message"), [
    ({"title": "t"}, "no key 'rows'"),
    ({"title": "t", "rows": []}, "at least one row"),
    ({"title": "t", "rows": [{"system": "a", "label": "a"}] * 2}, "two rows are of the system 'a'"),
    ({"title": "t", "rows": [{"system": "../a", "label": "a"}]}, "rows: 1: system: '../a' is not the name"),
    ({"title": "t", "rows": [{"system": "a", "label": 3}]}, "label: must be one line of text"),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"overal": 1}}]}, "unknown key 'overal'"),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"overall": "1"}}]}, "must be a number"),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"seeds": 0.5}}]}, "seeds: must be a count"),
])
def test_wrong_tables_are_named(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        read_table(write_table(tmp_path / "wrong.yaml", tree))


def test_shipped_tables_hold_the_published_figures():
    rows = {row.system: row for row in read_table("table3").rows}
    assert len(rows) == 9
    for system, (devices, overall, deviation, seeds) in TYPED.items():
        published = rows[system].published
        assert list(published.devices) == ["a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6"]
        assert list(published.devices.values()) == devices
        assert (published.overall, published.deviation, published.seeds) == (overall, deviation, seeds)
        assert published.parameters == ("8.1k" if "asc_1" in system else "315k")
    table2, table4 = ([row.published for row in read_table(name).rows] for name in ("table2", "table4"))
    assert [(p.parameters, p.overall, p.deviation, p.seeds) for p in table2] == [
        ("899k", 67.8, None, None), ("317k", 68.6, 0.4, None), ("315k", 69.5, 0.3, None)]
    assert [(p.bits, p.size, p.overall, p.deviation, p.seeds) for p in table4] == [
        ("32 bit", None, 76.3, 0.8, 6), ("8/16 bit", None, 75.1, 0.9, 6), ("8/16 bit", "61.0 KB", 75.3, 0.8, 6)]


def test_published_devices_average_to_the_published_overall():
    for row in read_table("table3").rows:
        published = row.published
        assert np.mean(list(published.devices.values())) == pytest.approx(published.overall, abs=0.1), row.label


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_rows_of_shipped_tables_are_shipped_systems(name):
    for row in read_table(name).rows:
        assert (SYSTEMS / f"{row.system}.yaml").is_file(), row.system
    assert set(yaml.safe_load((TABLES / f"{name}.yaml").read_text(encoding="utf-8"))) == {"title", "rows"}


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


def write_predicted_run(runs, system, seed, reference, right, name="tiny-development"):
    """A run that is right, with p = 1/2, about ``right`` of the clips of each location, and gives the others 1/4."""
    number = reference.groupby("identifier").cumcount()
    wrong = reference.scene_label.map(dict(zip(SCENES, SCENES[1:] + SCENES[:1], strict=True)))
    decided = np.where(number < reference.identifier.map(right), reference.scene_label, wrong)
    table = pd.DataFrame({"filename": reference.filename, "scene_label": decided,
                          **{scene: np.where(decided == scene, 0.5, 0.25) for scene in SCENES}})
    results = metrics.evaluate(reference, table)
    folder = runs / system / f"seed{seed}"
    (folder / "predictions").mkdir(parents=True)
    table.to_csv(folder / "predictions" / "test.csv", sep="\t", index=False, lineterminator="\n")
    record = {"data": {"name": name, "demo": False, "clips": len(reference)}, **results, "left_out": []}
    (folder / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")


@pytest.fixture
def compared(tmp_path):
    """Two systems of one seed; of four clips a location the first has 4, 3, 2, ... right and the second 2."""
    reference = write_data(tmp_path / "data")
    right = dict(zip(LOCATIONS, (4, 3, 3, 3, 3, 3, 3, 3, 2), strict=True))
    write_predicted_run(tmp_path / "runs", "plain", 0, reference, right)
    write_predicted_run(tmp_path / "runs", "small", 0, reference, dict.fromkeys(LOCATIONS, 2))
    return tmp_path


def test_comparison_by_hand(compared):
    comparison = compare(compared / "runs", "plain", "small", str(compared / "data"))
    test = comparison.tests["accuracy"]
    # three locations a scene, so each weighs 1/9: (2 + 7 + 0) / 4 / 9 = 25 %
    assert test.difference == pytest.approx(25) and comparison.scores["accuracy"] == pytest.approx((75, 50))
    assert test.p_locations == 4 / 512  # all eight that differ exchanged or none, and the ninth either way
    assert (test.locations, test.clips, test.p_seeds) == (9, 36, None)
    assert comparison.tests["logloss"].difference == pytest.approx(-np.log(2) / 4)
    assert verdict(comparison, "accuracy") == (
        "Accuracy: not within noise: plain is better; one seed says nothing of the noise of training.")
    assert verdict(comparison, "logloss").startswith("Log loss: not within noise: plain is better")
    other = compare(compared / "runs", "small", "plain", str(compared / "data"))
    assert other.tests["accuracy"].difference == pytest.approx(-25)
    assert verdict(other, "accuracy") == verdict(comparison, "accuracy")
    assert other.tests["accuracy"].low == pytest.approx(-test.high)


def test_comparison_as_text(compared):
    text = format_comparison(compare(compared / "runs", "plain", "small", str(compared / "data")))
    assert text.startswith("## plain less small\n\n|          | plain | small | Difference |")
    assert "| Accuracy | 75.0  | 50.0  | +25.0      |" in text and "| 0.008        | -             |" in text
    assert "1 seed, 9 locations, 36 paired predictions. Difference of accuracy by seed: 0: +25.0." in text


def test_comparison_of_equal_systems_is_within_noise(compared):
    reference = metrics_reference(compared / "data")
    write_predicted_run(compared / "runs", "same", 0, reference, dict.fromkeys(LOCATIONS, 2))
    comparison = compare(compared / "runs", "same", "small", str(compared / "data"))
    assert comparison.tests["accuracy"].p_locations == 1
    assert verdict(comparison, "accuracy") == "Accuracy: within noise: other test locations could have turned it."


def test_few_locations_are_within_noise_and_said_so(tmp_path):
    reference = write_data(tmp_path / "data", LOCATIONS[:3])
    for system, right in (("plain", 4), ("small", 0)):
        write_predicted_run(tmp_path / "runs", system, 0, reference, dict.fromkeys(LOCATIONS, right))
    comparison = compare(tmp_path / "runs", "plain", "small", str(tmp_path / "data"))
    assert comparison.tests["accuracy"].p_locations == 2 / 8
    assert verdict(comparison, "accuracy").endswith("could have turned it: 3 are too few to tell anything.")
    assert "| none " in format_comparison(comparison)


def test_folds_have_a_data_set_each(tmp_path):
    for seed, prefix in enumerate(("oslo", "bonn")):
        reference = write_data(tmp_path / f"fold{seed}" / "set", [f"{prefix}-{n}" for n in range(6)])
        for system, right in (("plain", 3), ("small", 2)):
            write_predicted_run(tmp_path / "runs", system, seed, reference, dict.fromkeys(reference.identifier, right))
    write_predicted_run(tmp_path / "runs", "plain", 5, reference, dict.fromkeys(reference.identifier, 0))
    comparison = compare(tmp_path / "runs", "plain", "small", str(tmp_path / "fold{seed}" / "set"))
    test = comparison.tests["accuracy"]
    assert test.by_seed == pytest.approx({0: 25, 1: 25}) and (test.locations, test.clips) == (12, 48)
    assert test.p_locations == 2 / 4096 and not test.within_noise
    with pytest.raises(InputError, match=r"plain/seed1 against .*fold0.*put \{seed\} into --data-root"):
        compare(tmp_path / "runs", "plain", "small", str(tmp_path / "fold0" / "set"))


def metrics_reference(root):
    from task1a.data.tau_layout import read_development
    clips = read_development(root)
    return clips[clips.split == "test"].reset_index(drop=True)


def test_results_that_are_not_of_the_predictions_are_refused(compared):
    path = compared / "runs" / "small" / "seed0" / "predictions" / "test.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.25"), encoding="utf-8")
    with pytest.raises(InputError, match="small/seed0 against .*the probabilities sum to"):
        compare(compared / "runs", "plain", "small", str(compared / "data"))
    (compared / "runs" / "small" / "seed0" / "predictions" / "test.csv").write_bytes(
        (compared / "runs" / "plain" / "seed0" / "predictions" / "test.csv").read_bytes())
    with pytest.raises(InputError, match="accuracy 75 where the run's results say 50"):
        compare(compared / "runs", "plain", "small", str(compared / "data"))


@pytest.mark.parametrize(("systems", "message"), [
    (("plain", "plain"), "cannot be compared with itself"),
    (("plain", "none"), "plain has 0; none has none"),
])
def test_what_cannot_be_compared_is_named(compared, systems, message):
    with pytest.raises(InputError, match=message):
        compare(compared / "runs", *systems, str(compared / "data"))


def test_command_prints_and_writes(table, compared, capsys):
    runs, out = compared / "runs", compared / "out"
    assert main([table, "--runs", str(runs)]) == 0
    assert (runs / "tables" / "mine.md").read_text(encoding="utf-8") == capsys.readouterr().out
    assert sorted(path.name for path in (runs / "tables").iterdir()) == ["mine.csv", "mine.md", "mine.tex"]
    assert main([table, "--runs", str(runs), "--out", str(out), "--compare", "plain", "small",
                 "--data-root", str(compared / "data")]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith((out / "compare_plain_small.md").read_text(encoding="utf-8"))
    stored = json.loads((out / "compare_plain_small.json").read_text(encoding="utf-8"))
    assert stored["accuracy"]["within_noise"] is False and stored["locations"] == 9
    assert stored["accuracy"]["p_locations"] == 4 / 512 and stored["accuracy"]["p_with_seeds"] is None


@pytest.mark.parametrize(("arguments", "message"), [
    (["table7"], "table7: no such table; give table2, table3, table4, or"),
    (["table3"], "no finished run"),
    (["table3", "--compare", "a", "b"], "--data-root DIR go together"),
    (["table3", "--data-root", "a"], "--data-root DIR go together"),
    (["table3", "--runs", "nowhere"], "nowhere: no such folder"),
    ([], "the following arguments are required: TABLE"),
])
def test_what_cannot_be_done_is_told_in_one_line(tmp_path, capsys, arguments, message):
    if "--runs" not in arguments:
        arguments = [*arguments, "--runs", str(tmp_path)]
    assert run_command(lambda: main(arguments)) == 2
    output = capsys.readouterr()
    assert message in output.err and output.err.count("\n") == 1 and not output.out
    assert not list(Path(tmp_path).iterdir())


def test_import_is_light():
    check = ("import sys, evaluation.tables; "
             "print([name for name in ('torch', 'dcase_util', 'sklearn', 'scipy', 'pydantic') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_runs_are_in_the_order_of_their_seeds(runs):
    assert [run.seed for run in read_runs(runs, "plain")] == [0, 1, 10]
