"""Runs are read as they are stored, and those that do not belong together are told apart."""
import shutil

import pytest

from evaluation.results import Result, differences, format_differences, groups, read_folder, read_systems, validate
from task1a.errors import InputError


def of_both(runs) -> list[Result]:
    return [*read_folder(runs / "plain")[0], *read_folder(runs / "small")[0]]


def test_results_are_those_of_the_files_in_the_order_of_the_seeds(runs):
    finished, unfinished = read_folder(runs / "plain")
    assert [run.seed for run in finished] == [0, 1, 10] and unfinished == []
    run = finished[1]
    assert (str(run), run.data_name, run.clips, run.parameters) == ("plain/seed1", "tiny-development", 8, 8_055)
    assert run.scores == {name: {"accuracy": accuracy, "logloss": 1.3}
                          for name, accuracy in (("a", 74.0), ("s1", 50.0), ("overall", 62.0))}
    without_size = read_folder(runs / "small")[0][0]
    assert (without_size.parameters, without_size.kib) == (None, {})


@pytest.mark.parametrize("name, unfinished", [("seed7", ["small/seed7"]), ("seed07", []), ("seedling", [])])
def test_unfinished_runs(runs, name, unfinished):
    (runs / "small" / name).mkdir()
    finished, found = read_folder(runs / "small")
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
    ("evaluation.json", b"[]", "damaged.*: data: Field required.*; make it again with: .* --stage evaluate --force"),
    ("evaluation.json", b'{"data": {"name": "x"}}', "damaged.*: data.demo: Field required"),
    ("complexity.json", b"{", "damaged; make it with: python task1a.py --stage complexity"),
    ("complexity.json", b"{}", "damaged.*: policies: Field required.*--stage complexity --force"),
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


@pytest.mark.parametrize("score", ["high", "60.0", None, True, float("nan"), 10 ** 400, [60.0]])
def test_a_score_that_is_no_number_is_named(runs, write_run, score):
    write_run(runs, "small", 5, {"a": 60.0, "overall": {"accuracy": score, "logloss": 1.0}})
    with pytest.raises(InputError, match=r"seed5.evaluation.json: .*overall.accuracy: .* a .*number") as error:
        of_both(runs)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(("config", "more", "expected"), [
    ({}, {}, ""),
    ({"training": {"epochs": 30}}, {}, "training.epochs=100 against training.epochs=30"),
    ({"training": {"precision": "bf16-mixed"}}, {}, "training.precision=32-true against training.precision=bf16-mixed"),
    ({"evaluation": {"time_rolls": 4}}, {}, "evaluation.time_rolls=1 against evaluation.time_rolls=4"),
    ({"data": {"skip_damaged": True}}, {}, "data.skip_damaged=false against data.skip_damaged=true"),
    ({"model": {"tau": 2, "residual_norm": "input"}}, {},
     "model.tau=1.0, model.residual_norm=all against model.tau=2.0, model.residual_norm=input"),
    # the others of the compression, and those of another network, tell nothing more
    ({"compression": {"enabled": True}}, {}, "compression.enabled=false against compression.enabled=true"),
    ({"compression": {"ratio": 0.5}}, {}, ""),
    ({"model": {"name": "cp_resnet", "rho": 4}}, {}, "model.name=bcresnet_asc against model.name=cp_resnet"),
    ({"system": "other", "description": "x", "submission": {"name": "x"}}, {}, ""),
    ({"data": {"cache_dir": "x", "workers": 2, "root": "elsewhere"}, "evaluation": {"batch_size": 8}}, {}, ""),
    ({}, {"data": {"name": "x"}}, "data.name=tiny-development against data.name=x"),
    ({}, {"data": {"demo": True}}, "data.demo=false against data.demo=true"),
    ({}, {"data": {"clips": 9}}, "test clips=8 against test clips=9"),
    ({}, {"data": {"clips": 7}, "left_out": ["audio/x.wav"]}, "damaged test clips=0 against damaged test clips=1"),
    # numbered folders are the folds of the seeds
    ({"data": {"root": "sets/fold2"}}, {"data": {"clips": 9}}, ""),
    ({"data": {"root": "sets/fold3"}}, {"data": {"clips": 9}}, "test clips=8 against test clips=9"),
])
def test_what_two_runs_differ_in(tmp_path, write_run, config, more, expected):
    """They are averaged if, and only if, they differ in the seed alone."""
    write_run(tmp_path, "plain", 0, {"overall": 60.0}, config={"data": {"root": "sets/fold1"}})
    write_run(tmp_path, "plain", 1, {"overall": 60.0}, config=config, **more)
    finished, _ = read_folder(tmp_path / "plain")
    assert format_differences(differences(*finished)) == expected
    assert [len(group) for group in groups(finished)] == ([1, 1] if expected else [2])


def test_clips_are_told_apart_by_their_names(tmp_path, write_run):
    for seed, clip in enumerate(("one", "two")):
        path = write_run(tmp_path, "plain", seed, {"overall": 60.0}) / "predictions" / "test.csv"
        path.parent.mkdir()
        path.write_text(f"filename\tscene_label\naudio/{clip}.wav\tbus\n", encoding="utf-8")
    found = differences(*read_folder(tmp_path / "plain")[0])
    assert format_differences(found) == "test clips=8 against test clips=8 others"


def test_members_of_an_ensemble_count(tmp_path, write_run):
    for seed, epochs in enumerate((3, 3, 4)):
        training = {"epochs": epochs, "warmup_epochs": 1}
        write_run(tmp_path, "member", seed, {"overall": 50.0}, config={"training": training})
        write_run(tmp_path, "both", seed, {"overall": 60.0}, config={"ensemble": ["member"]})
    first, second, third = read_folder(tmp_path / "both")[0]
    assert groups([first, second, third]) == [[first, second], [third]]
    found = format_differences(differences(first, third))
    assert found == "member: training.epochs=3 against member: training.epochs=4"


def test_a_copy_is_no_second_seed(runs):
    """Neither within its folder, where the number gives it away, nor in another one."""
    shutil.copytree(runs / "plain", runs / "copies")
    (plain, _), (copies, _) = read_folder(runs / "plain"), read_folder(runs / "copies")
    assert groups([*plain, *copies]) == [plain, copies]
    shutil.copytree(runs / "plain" / "seed0", runs / "plain" / "seed2")
    with pytest.raises(InputError, match="seed2: is a run with seed 0, by its config.yaml; rename the"):
        read_folder(runs / "plain")


def test_runs_are_found_by_their_system(runs, write_run):
    write_run(runs, "trial", 3, {"overall": 60.0}, config={"system": "plain"})
    write_run(runs, "small", 0, {"overall": 60.0}, config={"system": "another"})
    (runs / "broken" / "seed0").mkdir(parents=True)
    (runs / "broken" / "seed0" / "config.yaml").write_text("a: [", encoding="utf-8")
    (runs / "file").touch()
    found = read_systems(runs, ["plain", "small", "none"])
    assert [str(run) for run in found["plain"][0]] == ["plain/seed0", "plain/seed1", "plain/seed10", "trial/seed3"]
    assert [str(run) for run in found["small"][0]] == ["small/seed4"] and found["none"] == ([], [])
