"""The plan of a command: what would run, and what the runs of a command share."""
import shutil
from pathlib import Path

import pytest

from task1a.data import check, tau_layout
from task1a.errors import InputError
from task1a.features.cache import FeatureCache
from task1a.files import read_json, write_json
from task1a.pipeline import runner
from task1a.pipeline.plan import parse_arguments, system_file
from task1a.pipeline.run import RECORD_FORMAT

DEMO_STAGES = ["data", "features", "train", "compress", "complexity", "predict", "evaluate", "package"]


def planned(printed: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in printed.splitlines() if line.startswith("  "))


def test_dry_run_of_a_new_run_writes_nothing(tmp_path, capsys):
    assert runner.main(["--dry-run"]) == 0
    compared, said = capsys.readouterr().out.split(f"\n{Path('runs/demo/seed0')}\n")
    assert compared.startswith(f"for comparison: {Path('runs/demo_plain/seed0')}\n")
    assert list(planned(compared)) == [name for name in DEMO_STAGES if name != "package"]
    assert list(planned(said)) == DEMO_STAGES
    assert planned(said)["data"] == "would run: not done yet"
    assert planned(said)["features"] == "would run: data runs"
    assert list(tmp_path.iterdir()) == []


def test_dry_run_does_not_make_the_demo_set(tmp_path, capsys):
    write_json(Path("runs/demo/seed0/stages/data.json"), {"format": RECORD_FORMAT, "inputs": {}, "outputs": {}})
    assert runner.main(["--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "  data        would run: the demo set is not there" in said and not (tmp_path / "cache").exists()


def test_dry_run_of_a_finished_run(again, arguments, capsys):
    before = {path: path.stat().st_mtime_ns for path in again.rglob("*")}
    assert runner.main([*arguments, "--dry-run"]) == 0
    assert set(planned(capsys.readouterr().out).values()) == {"up to date"}
    assert runner.main([*arguments, "--dry-run", "--until", "predict", "compression.epochs=3"]) == 0
    said = planned(capsys.readouterr().out)
    assert list(said) == DEMO_STAGES[:6] and said["train"] == "up to date"
    assert said["compress"] == "would run: compression.epochs changed" and said["predict"] == "would run: compress runs"
    assert before == {path: path.stat().st_mtime_ns for path in again.rglob("*")}


@pytest.mark.parametrize("arguments, message", [
    (["--until", "pretict"], "--until pretict: no such stage; did you mean predict?"),
    (["--until", "predict", "--stage", "train"], "exclude each other")])
def test_until_is_checked(arguments, message):
    with pytest.raises(InputError, match=message):
        parse_arguments(arguments)


def test_systems_are_given_by_name_or_file(tmp_path):
    assert "source: demo" in system_file("demo").read_text(encoding="utf-8")
    (tmp_path / "demo").write_text("")
    assert system_file("demo") == Path("demo")  # a file of the user comes first
    assert system_file("mine.yaml") == Path("mine.yaml")
    assert parse_arguments(["--system", "cp_resnet_64"]).run.config.model.name == "cp_resnet"


def test_data_set_is_opened_once_a_command(again, system, arguments, monkeypatch):
    """An ensemble of two systems with other features reads the tables and checks the recordings once."""
    calls = []

    def counted(name, called):
        def call(*given, **settings):
            calls.append(name)
            return called(*given, **settings)
        return call

    for module, name in ((tau_layout, "read_development"), (tau_layout, "read_evaluation"), (check, "check"),
                         (check, "content_digest")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    opened = FeatureCache.open.__func__

    def open_cache(cls, *given):
        calls.append("open")
        return opened(cls, *given)

    monkeypatch.setattr(FeatureCache, "open", classmethod(open_cache))
    system("a", training={"epochs": 1, "calibrate": False}, compression={"enabled": False})
    system("b", training={"epochs": 1, "calibrate": False}, compression={"enabled": False}, features={"hop": 1000})
    runner.main(["--system", system("both", ensemble=["a", "b"]), *arguments[2:]])
    for name in ("read_development", "read_evaluation", "check", "content_digest"):
        assert calls.count(name) == 1, name
    assert calls.count("open") <= 4  # a build may open what it has written


def test_systems_are_compared_at_the_end(again, system, arguments, capsys):
    """The other system is trained first, under a name of its own beside a named run, and never packaged."""
    system("plain", training={"epochs": 1}, compression={"enabled": False}, model={"residual_norm": "none"})
    own = system("own", evaluation={"compare_with": ["plain"]}, training={"epochs": 1}, compression={"enabled": False})
    given = ["--system", own, *arguments[2:]]
    assert [str(step.run) for step in parse_arguments([*given, "--name", "x"]).steps] == ["x_plain/seed0", "x/seed0"]
    assert len(parse_arguments([*given, "--until", "predict"]).steps) == 1
    runner.main(given)
    said = capsys.readouterr().out
    assert said.startswith("for comparison: plain/seed0\n")
    lines = said[said.index("overall  seen devices  unseen devices"):].splitlines()
    for line, name in zip(lines[1:3], ("own", "plain"), strict=True):
        record = read_json(Path("runs") / name / "seed0" / "evaluation.json")
        accuracies = [record["overall"]["accuracy"], *(record["device_groups"][group]["accuracy"]
                                                       for group in ("seen", "unseen"))]
        assert line.split() == [name, *(f"{accuracy:.1f}%" for accuracy in accuracies)]
    assert lines[3] == f"to test the difference: task1a compare {Path('runs/own')} {Path('runs/plain')}"
    assert not list(Path("runs/plain").rglob("*.zip"))


def test_demo_package_is_named_for_what_it_is(undisturbed):
    said = (undisturbed / "said.txt").read_text(encoding="utf-8")
    assert said.count("demo data cannot be submitted") == 1 and "NOT SUBMITTABLE" not in said


def test_opened_caches_are_built_again_for_their_damaged_clips(toy_data, toy_system, tmp_path):
    """A run that is up to date only opens the cache; another one of the same command needs its damaged clips."""
    root = tmp_path / "data"
    shutil.copytree(toy_data[0], root)
    damaged = next((root / "audio").glob("*-a.wav"))
    damaged.write_bytes(damaged.read_bytes()[:1000])
    given = ["--system", str(toy_system), "--data-root", str(root), "--device", "cpu", "--skip-damaged"]
    plan = parse_arguments(given)
    config = plan.run.config
    expected = plan.workspace.build_cache(config, "development")
    workspace = parse_arguments(given).workspace
    workspace.cache(config, "development")
    assert workspace.caches_are_complete(config)
    built = workspace.build_cache(config, "development")
    assert set(built.damaged) == {f"audio/{damaged.name}"} == set(expected.damaged) and len(built) == len(expected)
