"""Tables of synthetic runs, whose means and deviations can be worked out by hand."""
import io
import json
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import pytest
import yaml

from evaluation.tables.__main__ import main
from evaluation.tables.paper import FORMATS, evaluate, format_csv, format_latex, format_markdown
from evaluation.tables.table_file import SYSTEMS, read_table
from submission.rules import TASK1A_2021
from task1a.config_file import load
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
    "Published figures are of the test split of TAU Urban Acoustic Scenes 2020 Mobile (2,968 clips), and are left out.",
]

MARKDOWN = """\
## Table 9: odd_names & more

| System         |      | Seeds | Parameters | KiB, dcase2021 | KiB, paper |          A |   B |         S1 |    Overall |      Log loss |
| -------------- | ---- | ----: | ---------: | -------------: | ---------: | ---------: | --: | ---------: | ---------: | ------------: |
| plain \\| 100 % | ours |     3 |      8,055 |           38.6 |       31.5 | 72.0 ± 2.0 |     | 50.0 ± 0.0 | 61.0 ± 1.0 | 1.200 ± 0.100 |
| [small]        | ours |     1 |            |                |            |       70.0 |     |       60.5 |       65.2 |         1.012 |
| absent         | ours |       |            |                |            |            |     |            |            |               |

"""  # noqa: E501

LATEX_ROWS = r"""
\begin{tabular}{llrrrrrrrrr}
\hline
System &  & Seeds & Parameters & KiB, dcase2021 & KiB, paper & A & B & S1 & Overall & Log loss \\
\hline
plain \textbar{} 100 \% & ours & 3 & 8,055 & 38.6 & 31.5 & 72.0 $\pm$ 2.0 &  & 50.0 $\pm$ 0.0 & 61.0 $\pm$ 1.0 & 1.200 $\pm$ 0.100 \\
{[}small] & ours & 1 &  &  &  & 70.0 &  & 60.5 & 65.2 & 1.012 \\
absent & ours &  &  &  &  &  &  &  &  &  \\
\hline
\end{tabular}
"""  # noqa: E501

CSV = """\
table,label,system,data,demo,comparable,seeds,parameters,kib_dcase2021,kib_paper,accuracy_a,deviation_a,accuracy_b,\
deviation_b,accuracy_s1,deviation_s1,accuracy_overall,deviation_overall,logloss,deviation_logloss,published_a,\
published_b,published_s1,published_overall,published_deviation,published_seeds,published_parameters,published_bits,\
published_size,notes
mine,plain | 100 %,plain,tiny-development,False,False,0 1 10,8055,38.613281,31.464844,72.0,2.0,,,50.0,0.0,61.0,1.0,1.2,\
0.1,,,,,,,,,,"NOTES"
mine,[small],small,tiny-development,False,False,4,,,,70.0,,,,60.5,,65.25,,1.0125,,,,,,,,,,,"NOTES"
mine,absent,absent,tiny-development,False,False,,,,,,,,,,,,,,,,,,,,,,,,"NOTES"
"""


def write_table(path, tree=None):
    path.write_text(yaml.safe_dump(tree or TABLE, allow_unicode=True), encoding="utf-8")
    return str(path)


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "mine.yaml")


def test_markdown(table, runs):
    notes = "".join(f"- {note}\n" for note in NOTES)
    assert format_markdown(evaluate(read_table(table), runs)) == MARKDOWN + notes


def test_latex(table, runs):
    text = format_latex(evaluate(read_table(table), runs))
    assert LATEX_ROWS in text
    assert r"\caption{Table 9: odd\_names \& more}" in text
    assert text.endswith("are left out.\n\\end{table*}\n") and "the mean of the class-wise accuracies; $\\pm$" in text


def test_csv(table, runs):
    assert format_csv(evaluate(read_table(table), runs)) == CSV.replace("NOTES", " ".join(NOTES))


def test_latex_escapes_every_special_character(tmp_path, runs):
    label = r"\ ~ ^ & % $ # _ { } < > [ * ±"
    tree = {"title": "t", "rows": [{"system": "plain", "label": label}]}
    text = format_latex(evaluate(read_table(write_table(tmp_path / "t.yaml", tree)), runs))
    assert (r"\textbackslash{} \textasciitilde{} \textasciicircum{} \& \% \$ \# \_ \{ \} \textless{} \textgreater{} "
            r"{[} {*} $\pm$ & ours") in text


def test_demo_data_is_called_so_everywhere(tmp_path, table, write_run):
    runs = tmp_path / "runs"
    write_run(runs, "plain", 0, {"a": 70.0, "overall": 60.0}, data={"name": "demo-development", "demo": True})
    results = evaluate(read_table(table), runs)
    for form in FORMATS.values():
        assert "Demo data: figures say nothing about real recordings" in form(results)
        assert "Published figures are of the test split of TAU" in form(results)
    assert "(ours: demo data)" in format_markdown(results) and "| ours (demo data) |" in format_markdown(results)
    assert "ours: demo data" in format_latex(results) and "demo-development,True,False" in format_csv(results)


@pytest.mark.parametrize(("data", "more", "comparable"), [
    ({}, {}, True),
    ({"name": "a folder of any name"}, {}, True),
    ({"clips": 2967}, {"left_out": ["audio/one.wav"]}, True),
    ({"clips": 2970}, {}, False),  # an older copy
    ({"demo": True}, {}, False),
    ({}, {"labels": ["bus"]}, False),
    ({}, {"devices": ("a", "b", "phone")}, False),
])
def test_published_figures_are_those_of_the_tau_test_split(tmp_path, table, data, more, comparable, write_run):
    data = {"name": "TAU-urban-acoustic-scenes-2020-mobile-development", "clips": 2968, **data}
    scores = dict.fromkeys(more.pop("devices", TASK1A_2021.devices), 50.0)
    write_run(tmp_path / "runs", "plain", 0, {**scores, "overall": 60.0}, data=data,
              **{"labels": list(TASK1A_2021.labels), **more})
    results = evaluate(read_table(table), tmp_path / "runs")
    assert results.comparable is comparable
    # 58.9 and 73.1 are published in all formats, or in none
    for form in FORMATS.values():
        assert ("58.9" in form(results)) is ("73.1" in form(results)) is comparable
    said = " ".join(results.notes)
    assert ("the same test split" in said) is comparable and ("and are left out" in said) is not comparable
    assert ("Damaged test clips were left out: plain/seed0 (1)." in said) is ("left_out" in more)
    if comparable:
        cells = [line.split(" & ") for line in format_latex(results).splitlines() if " & published & " in line]
        assert cells[0][:7] == ["", "published", "6", "8.1k", "", "", "73.1"] and "58.9 $\\pm$ 0.8" in cells[0]
        assert cells[1][5] == "8/16 bit, 61.0 KB"
        row = pd.read_csv(io.StringIO(format_csv(results))).iloc[0]
        assert (row.published_s1, row.published_overall, row.published_seeds) == (58.2, 58.9, 6)


def test_other_systems_are_no_part_of_the_table(table, runs, write_run):
    write_run(runs, "demo", 0, {"overall": 60.0}, data={"name": "demo-development", "demo": True})
    assert not evaluate(read_table(table), runs).demo


def test_folds_are_named(tmp_path, table, runs, write_run):
    """Test splits are told apart by their clips, or by their number if the clips are not known."""
    for seed, clips in ((1, 8), (2, 12), (4, 8)):
        shutil.rmtree(runs / "small" / f"seed{seed}", ignore_errors=True)
        write_run(runs, "small", seed, {"overall": 60.0}, data={"clips": clips},
                  config={"data": {"root": f"fold{seed}"}})
    notes = " ".join(evaluate(read_table(table), runs).notes)
    assert "8 to 12 clips" in notes and "Folds: the seeds were tested on different clips" in notes
    assert "Rows with different seeds are not over the same test clips." in notes
    for seed, clip in enumerate(("one", "two")):
        config = {"data": {"root": f"fold{seed}"}}
        predictions = write_run(tmp_path / "named", "plain", seed, {"overall": 60.0}, config=config) / "predictions"
        predictions.mkdir()
        (predictions / "test.csv").write_text(f"filename\tscene_label\naudio/{clip}.wav\tbus\n", encoding="utf-8")
    assert "Folds" in " ".join(evaluate(read_table(table), tmp_path / "named").notes)


@pytest.mark.parametrize(("by_folder", "seeds", "note"), [
    # epochs of the seeds in each folder, whose runs are all of the system bcresnet_asc_1, with 100 epochs
    ({"bcresnet_asc_1": [100, 100]}, [0, 1], None),
    ({"bcresnet_asc_1": [60, 60]}, [0, 1],
     "Not the recipe of system_configs: training.epochs=60 instead of training.epochs=100: bcresnet_asc_1."),
    ({"bcresnet_asc_1": [100, 60, 100]}, [0, 2],
     "bcresnet_asc_1/seed1: training.epochs=60 instead of training.epochs=100."),
    ({"bcresnet_asc_1": [60, 30]}, None,
     "seed0 and bcresnet_asc_1/seed1 cannot be averaged: training.epochs=60 against training.epochs=30; run one"),
    ({"trial": [60]}, None, "trial/seed0: training.epochs=60 instead of training.epochs=100."),
    ({"trial": [100]}, [0], None),
    ({"bcresnet_asc_1": [60], "trial": [100, 100]}, [0, 1], "Not in the row of bcresnet_asc_1: bcresnet_asc_1/seed0: "),
    ({"bcresnet_asc_1": [60], "trial": [30, 60]}, [0, 1], "trial/seed0: training.epochs=30 instead of"),
    ({"bcresnet_asc_1": [100], "elsewhere": [100, 100]}, [0],
     "elsewhere/seed1: data.name=elsewhere instead of data.name=tiny-development."),
    ({"bcresnet_asc_1": [100], "copy": [100, 100]}, [0, 1], "copy/seed0: a run with this seed is in the row."),
    ({"bcresnet_asc_1": [100, 100], "copy": [100]}, [0, 1], "copy/seed0: a run with this seed is in the row."),
])
def test_a_row_is_of_runs_that_differ_in_the_seed_alone(tmp_path, write_run, by_folder, seeds, note):
    for folder, of_seeds in by_folder.items():
        for seed, epochs in enumerate(of_seeds):
            config = load(SYSTEMS / "bcresnet_asc_1.yaml", [f"training.epochs={epochs}", f"seed={seed}"])
            write_run(tmp_path, folder, seed, {"overall": epochs}, config=json.loads(json.dumps(asdict(config))),
                      data={"name": "elsewhere"} if folder == "elsewhere" else None)
    if seeds is None:
        with pytest.raises(InputError, match=re.escape(note)):
            evaluate(read_table("table3"), tmp_path)
        return
    results = evaluate(read_table("table3"), tmp_path)
    assert results.ours[0]["seeds"] == seeds and results.ours[0]["deviation_overall"] in (0, None)
    assert note in results.notes[-1] if note else len(results.notes) == 2


def test_unfinished_runs_are_named(table, runs):
    (runs / "small" / "seed7").mkdir()
    (runs / "small" / "seedling").mkdir()
    assert evaluate(read_table(table), runs).notes[-1] == "Not finished, and not in the table: small/seed7."


def test_command_prints_and_writes(table, runs, capsys):
    assert main([table, "--runs", str(runs)]) == 0
    assert (runs / "tables" / "mine.md").read_text(encoding="utf-8") == capsys.readouterr().out
    assert sorted(path.name for path in (runs / "tables").iterdir()) == ["mine.csv", "mine.md", "mine.tex"]


@pytest.mark.parametrize(("arguments", "message"), [
    (["table7"], "table7: no such table; give table2, table3, table4, or"),
    (["table3"], "no finished run"),
    (["table3", "--data-root", "a"], "--data-root DIR is for --compare"),
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
