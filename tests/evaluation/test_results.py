"""Runs are read as they are stored, and those that do not belong together are told apart."""
import pytest

from evaluation.results import Result, read_results, unfinished, validate
from task1a.errors import InputError


def of_both(runs) -> list[Result]:
    return [*read_results(runs, "plain"), *read_results(runs, "small")]


def test_runs_are_in_the_order_of_their_seeds(runs):
    assert [run.seed for run in read_results(runs, "plain")] == [0, 1, 10] and unfinished(runs, "plain") == []


def test_figures_are_those_that_are_stored(runs):
    """Parameters are 8,000 weights and 55 biases: neither statistics nor scales."""
    run = read_results(runs, "plain")[1]
    assert (str(run), run.data_name, run.clips, run.parameters) == ("plain/seed1", "tiny-development", 8, 8_055)
    assert run.scores == {name: {"accuracy": accuracy, "logloss": 1.3}
                          for name, accuracy in (("a", 74.0), ("s1", 50.0), ("overall", 62.0))}
    assert (read_results(runs, "small")[0].parameters, read_results(runs, "small")[0].kib) == (None, {})


@pytest.mark.parametrize("name, kind", [("seed7", "unfinished"), ("seed07", None), ("seedling", None)])
def test_what_has_no_results_yet(runs, name, kind):
    (runs / "small" / name).mkdir()
    assert unfinished(runs, "small") == ([f"small/{name}"] if kind else [])
    assert [run.seed for run in read_results(runs, "small")] == [4]


def test_runs_of_one_data_set_and_recipe_belong_together(runs, write_run):
    write_run(runs, "small", 1, {"overall": 60.0})
    validate(of_both(runs))


def test_mixed_data_sets_are_refused(runs, write_run):
    write_run(runs, "small", 5, {"overall": 60.0}, data={"name": "elsewhere"})
    with pytest.raises(InputError, match="different data sets.*plain/seed0 is of tiny.*small/seed5 of elsewhere"):
        validate(of_both(runs))


def test_demo_data_beside_other_data_is_refused(runs, write_run):
    write_run(runs, "small", 5, {"overall": 60.0}, data={"demo": True})
    with pytest.raises(InputError, match=r"small/seed5 of tiny-development \(demo data\)"):
        validate(of_both(runs))


def test_one_seed_with_two_test_splits_is_refused(runs, write_run):
    write_run(runs, "small", 1, {"overall": 60.0}, data={"clips": 12})
    with pytest.raises(InputError, match="plain/seed1 and small/seed1 were tested on different clips"):
        validate(of_both(runs))


@pytest.mark.parametrize(("record", "message"), [
    ("{", "damaged; make it with: python task1a.py --stage evaluate"),
    ("[]", "not the results of a run"),
    ('{"data": {"name": "x"}}', "not the results of a run"),
])
def test_damaged_results_are_named(runs, record, message):
    path = runs / "small" / "seed4" / "evaluation.json"
    path.write_text(record, encoding="utf-8")
    with pytest.raises(InputError, match=f"seed4.evaluation.json: {message}"):
        of_both(runs)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("complexity.json", b"{", "damaged; make it with: python task1a.py --stage complexity"),
    ("complexity.json", b"{}", "not the size of a run"),
    ("config.yaml", b"a: [", "not valid YAML"),
    ("config.yaml", b"- a", "must hold sections"),
    ("predictions/test.csv", b"\xff", "not UTF-8 text"),
])
def test_damaged_records_beside_the_results_are_named(runs, name, content, message):
    path = runs / "plain" / "seed1" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{path.name}: {message}"):
        of_both(runs)


def test_a_score_that_is_no_number_is_named(runs, write_run):
    write_run(runs, "small", 5, {"overall": "high"})
    with pytest.raises(InputError, match="overall: accuracy: must be a number"):
        of_both(runs)
