"""Runs are read as they are stored, and those that do not belong together are told apart."""
import pytest

from evaluation.results import Result, read_results, validate
from task1a.errors import InputError


def of_both(runs) -> list[Result]:
    return [*read_results(runs, "plain")[0], *read_results(runs, "small")[0]]


def test_results_are_those_of_the_files_in_the_order_of_the_seeds(runs):
    finished, unfinished = read_results(runs, "plain")
    assert [run.seed for run in finished] == [0, 1, 10] and unfinished == []
    run = finished[1]
    assert (str(run), run.data_name, run.clips, run.parameters) == ("plain/seed1", "tiny-development", 8, 8_055)
    assert run.scores == {name: {"accuracy": accuracy, "logloss": 1.3}
                          for name, accuracy in (("a", 74.0), ("s1", 50.0), ("overall", 62.0))}
    without_size = read_results(runs, "small")[0][0]
    assert (without_size.parameters, without_size.kib) == (None, {})


@pytest.mark.parametrize("name, unfinished", [("seed7", ["small/seed7"]), ("seed07", []), ("seedling", [])])
def test_unfinished_runs(runs, name, unfinished):
    (runs / "small" / name).mkdir()
    finished, found = read_results(runs, "small")
    assert [run.seed for run in finished] == [4] and found == unfinished


def test_runs_of_one_data_set_and_recipe_belong_together(runs, write_run):
    write_run(runs, "small", 1, {"overall": 60.0})
    validate(of_both(runs))


@pytest.mark.parametrize("seed, data, message", [
    (5, {"name": "elsewhere"}, "different data sets.*plain/seed0 is on tiny.*small/seed5 on elsewhere"),
    (5, {"demo": True}, r"small/seed5 on tiny-development \(demo data\)"),
    (1, {"clips": 12}, "plain/seed1 and small/seed1 were tested on different clips"),
])
def test_runs_that_cannot_share_a_table_are_refused(runs, write_run, seed, data, message):
    write_run(runs, "small", seed, {"overall": 60.0}, data=data)
    with pytest.raises(InputError, match=message):
        validate(of_both(runs))


@pytest.mark.parametrize(("name", "content", "message"), [
    ("evaluation.json", b"{", "damaged; make it with: python task1a.py --stage evaluate"),
    ("evaluation.json", b"[]", "not the results of a run"),
    ("evaluation.json", b'{"data": {"name": "x"}}', "not the results of a run"),
    ("complexity.json", b"{", "damaged; make it with: python task1a.py --stage complexity"),
    ("complexity.json", b"{}", "not the size of a run"),
    ("config.yaml", b"a: [", "not valid YAML"),
    ("config.yaml", b"- a", "must hold sections"),
    ("predictions/test.csv", b"\xff", "not UTF-8 text"),
])
def test_damaged_records_are_named(runs, name, content, message):
    path = runs / "plain" / "seed1" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}: {message}"):
        of_both(runs)


def test_a_score_that_is_no_number_is_named(runs, write_run):
    write_run(runs, "small", 5, {"overall": "high"})
    with pytest.raises(InputError, match="overall: accuracy: must be a number"):
        of_both(runs)
