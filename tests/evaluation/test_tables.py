"""Tables of synthetic runs, whose means and deviations can be worked out by hand."""
import json
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from evaluation.table_file import SYSTEMS, read_table
from evaluation.tables import FORMATS, evaluate, format_csv, format_latex, format_markdown, main
from submission.rules import TASK1A_2021
from task1a.config import load
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
    assert text.endswith("ours are not.\n\\end{table*}\n") and "the mean of the class-wise accuracies; $\\pm$" in text


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
def test_only_the_tau_test_split_is_comparable(tmp_path, table, data, labels, left_out, comparable, write_run):
    data = {"name": "TAU-urban-acoustic-scenes-2020-mobile-development", "clips": 2968, **data}
    write_run(tmp_path / "runs", "plain", 0, {"overall": 60.0}, data=data, left_out=left_out,
              labels=labels or list(TASK1A_2021.labels))
    results = evaluate(read_table(table), tmp_path / "runs")
    said = " ".join(results.notes)
    assert results.comparable is comparable
    assert ("the same test split" in said) is comparable and ("Not comparable" in said) is not comparable
    assert ("Damaged test clips were left out: plain/seed0 (1)." in said) is bool(left_out)


def test_other_systems_are_no_part_of_the_table(table, runs, write_run):
    write_run(runs, "demo", 0, {"overall": 60.0}, data={"name": "demo-development", "demo": True})
    assert not evaluate(read_table(table), runs).demo


def test_folds_are_named(tmp_path, table, runs, write_run):
    """Test splits are told apart by their clips, or by their number if the clips are not known."""
    write_run(runs, "small", 1, {"overall": 60.0}, data={"clips": 8})
    write_run(runs, "small", 2, {"overall": 60.0}, data={"clips": 12})
    notes = " ".join(evaluate(read_table(table), runs).notes)
    assert "8 to 12 clips" in notes and "Folds: the seeds were tested on different clips" in notes
    assert "Rows with different seeds are not over the same test clips." in notes
    for seed, clip in enumerate(("one", "two")):
        predictions = write_run(tmp_path / "named", "plain", seed, {"overall": 60.0}) / "predictions"
        predictions.mkdir()
        (predictions / "test.csv").write_text(f"filename\tscene_label\naudio/{clip}.wav\tbus\n", encoding="utf-8")
    assert "Folds" in " ".join(evaluate(read_table(table), tmp_path / "named").notes)


def test_recipes(tmp_path, write_run):
    """Runs of a row have the same; changes from the shipped one are named, those without effect are not."""
    runs = tmp_path / "runs"
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
