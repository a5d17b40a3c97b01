import dataclasses
import hashlib
import json
import os
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
import yaml

from submission import authors as authors_file
from submission import package as packaging
from submission.package import main, package
from submission.rules import EDITIONS, TASK1_2022, TASK1_2024, TASK1_2025, TASK1A_2021
from submission.validate import main as validate_main
from submission.validate import validate
from submission.validation.findings import Finding
from task1a.errors import InputError, run_command
from task1a.files import write_text

TEAM = "Muller-Los_UGraz"


def files_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def small(rules, clips=12):
    return dataclasses.replace(rules, clips=clips)


def short_clips(config):
    """A configuration of clips of one second, as the editions after 2021 have them."""
    return config | {"features": config["features"] | {"clip_seconds": 1.0}}


def test_full_size_package_has_the_official_hierarchy_and_is_submittable(full, capsys):
    _, out, made = full
    assert made.zip == out / f"{TEAM}_task1.zip"
    assert made.findings == ()
    names = [f"{TEAM}_task1a_{n}/{TEAM}_task1a_{n}.{kind}" for n in (1, 2) for kind in ("meta.yaml", "output.csv")]
    drafts = [f"{TEAM}_task1a_{n}.report.md" for n in (1, 2)]
    assert files_below(out) == sorted([*names, *drafts, f"{TEAM}_task1.zip"])
    with zipfile.ZipFile(made.zip) as archive:
        assert archive.namelist() == [f"{TEAM}_task1/task1/{name}" for name in names]  # forward slashes, sorted
        for name in names:
            assert archive.read(f"{TEAM}_task1/task1/{name}") == (out / name).read_bytes()
    for path in (made.zip, out):
        assert validate_main([str(path)]) == 0
    assert capsys.readouterr().out == "valid, and submittable to DCASE 2021 Task 1A\n" * 2


def test_output_csv_as_other_readers_see_it(full, said):
    runs, out, _ = full
    path = out / f"{TEAM}_task1a_2" / f"{TEAM}_task1a_2.output.csv"
    table = pd.read_csv(path, sep="\t")
    given = pd.read_csv(runs[1] / "predictions" / "evaluation.csv", sep="\t")
    assert tuple(table.columns) == ("filename", "scene_label", *said.labels)
    assert list(table.filename) == [f"audio/{index}.wav" for index in range(7920)]
    values = table[list(said.labels)].to_numpy()
    np.testing.assert_array_equal(values.astype(np.float32), given[list(said.labels)].to_numpy().astype(np.float32))
    assert list(table.scene_label) == [said.labels[index] for index in values.argmax(1)]
    assert b"\r" not in path.read_bytes()


def test_output_csv_in_the_official_container(full, said):
    containers = pytest.importorskip("dcase_util.containers")
    _, out, _ = full
    meta = containers.MetaDataContainer().load(str(out / f"{TEAM}_task1a_1" / f"{TEAM}_task1a_1.output.csv"))
    assert len(meta) == 7920
    assert meta.unique_scene_labels == sorted(said.labels)


def test_same_runs_same_bytes(full, authors, tmp_path):
    runs, out, made = full
    moved = [shutil.copytree(run, tmp_path / "elsewhere" / run.name) for run in runs]
    for run in moved:
        os.utime(run / "config.yaml", (0, 0))
    package(moved, authors, tmp_path / "out")
    assert files_below(tmp_path / "out") == files_below(out)
    for name in files_below(out):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.parametrize("own", [True, False])
def test_the_runs_own_file_is_copied(tmp_path, make_run, authors, small_rules, own):
    """Digits that another program would write are kept in the file that the run recorded, and in no other."""
    run = make_run(tmp_path / "run", clips=12)
    path = run / "predictions" / "evaluation.csv"
    path.write_bytes(path.read_bytes().replace(b"\t0.", b"\t+0."))
    content = hashlib.sha256(path.read_bytes()).hexdigest() if own else "0" * 64
    (run / "stages").mkdir()
    (run / "stages" / "predict.json").write_text(json.dumps(
        {"format": 1, "inputs": {}, "outputs": {"predictions/evaluation.csv": content}}))
    package([run], authors, tmp_path / "out", small_rules)
    label = f"{TEAM}_task1a_1"
    written = (tmp_path / "out" / label / f"{label}.output.csv").read_bytes()
    assert (written == path.read_bytes()) == own


def test_other_data_is_packaged_but_not_submittable(tmp_path, make_run, capsys):
    labels = ("birdsong", "office", "train")
    run = make_run(tmp_path / "run", labels=labels, devices=("a", "s1"), clips=5, demo=True)
    assert main([str(run), "--out", str(run / "submission")]) == 0
    told = capsys.readouterr().out
    assert files_below(run / "submission") == ["Lastname_INST_task1.zip",
                                               "Lastname_INST_task1a_1.report.md",
                                               "Lastname_INST_task1a_1/Lastname_INST_task1a_1.meta.yaml",
                                               "Lastname_INST_task1a_1/Lastname_INST_task1a_1.output.csv"]
    reasons = [line for line in told.splitlines() if line.startswith("NOT SUBMITTABLE: ")]
    for reason in ("birdsong office train", "5 files, 0 of them not of the evaluation set, 7,915 of it missing",
                   "the devices a s1", "trained on demo data", "an author of the example"):
        assert sum(reason in line for line in reasons) == 1, reason
    assert len(reasons) == 5
    assert "error: " not in told
    [path] = run.rglob("*.meta.yaml")
    meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert meta["submission"]["name"] == "BC-ResNet-ASC-1 (demo data)"
    assert list(meta["results"]["development_dataset"]["class_wise"]) == list(labels)
    assert validate_main([str(run / "submission" / "Lastname_INST_task1.zip")]) == 1


@pytest.mark.parametrize(("size", "made", "levels"), [(128_000, True, []), (128_001, True, ["warning"]),
                                                      (131_072, True, ["warning"]), (131_073, False, ["error"])])
def test_size_limit(tmp_path, make_run, authors, small_rules, size, made, levels):
    packed = package([make_run(tmp_path / "run", clips=12, size=size)], authors, tmp_path / "out", small_rules)
    assert [finding.level for finding in packed.findings] == levels
    assert all("model_size" in finding.where for finding in packed.findings)
    assert (packed.zip is not None) == made
    assert bool(files_below(tmp_path / "out")) == made


def spoil_predictions(run):
    path = run / "predictions" / "evaluation.csv"
    header, first, *rows = path.read_text().splitlines()
    path.write_text("\n".join((header, first, first, *rows)) + "\n")


def spoil_results(run):
    record = json.loads((run / "evaluation.json").read_text())
    record["overall"]["logloss"] = -1.0
    (run / "evaluation.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("spoil", "told"), [(spoil_predictions, "'audio/0.wav' again"), (spoil_results, "found -1.0")])
def test_malformed_package_leaves_nothing_not_even_the_older_one(tmp_path, make_run, authors, capsys, spoil, told):
    run, out = make_run(tmp_path / "run", clips=4), tmp_path / "out"
    arguments = [str(run), "--authors", str(authors), "--out", str(out)]
    assert main(arguments) == 0
    label = out / f"{TEAM}_task1a_1"
    (label / "notes.txt").write_text("mine")
    (out / "report.zip").write_text("mine")
    spoil(run)
    assert main(arguments) == 1
    assert told in capsys.readouterr().out
    assert files_below(out) == [f"{TEAM}_task1a_1/notes.txt", "report.zip"]


def test_a_smaller_package_replaces_all_of_a_larger_one(tmp_path, make_run, authors):
    runs = [make_run(tmp_path / f"seed{seed}", clips=2) for seed in range(3)]
    package(runs, authors, tmp_path / "out")
    package(runs[:1], None, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "Lastname_INST_task1a_1", "Lastname_INST_task1a_1.report.md", "Lastname_INST_task1.zip"}


@pytest.mark.parametrize("failing", ["write_text", "validate", "write_zip"])
def test_failure_on_the_way_leaves_nothing(tmp_path, make_run, authors, monkeypatch, failing):
    run, out = make_run(tmp_path / "run", clips=2), tmp_path / "out"
    package([run], authors, out)
    calls = []

    def fail(*arguments):
        calls.append(arguments)
        if failing != "write_text" or len(calls) == 3:  # all but the output are on disk by then
            raise KeyboardInterrupt
        write_text(*arguments)

    monkeypatch.setattr(packaging, failing, fail)
    with pytest.raises(KeyboardInterrupt):
        package([run], authors, out)
    assert calls
    assert list(out.iterdir()) == []


def test_an_unreadable_second_run_leaves_nothing_of_the_first(tmp_path, make_run, authors):
    runs = [make_run(tmp_path / f"seed{seed}", clips=2) for seed in range(2)]
    (runs[1] / "predictions" / "evaluation.csv").write_text("filename\tscene_label\ta\naudio/0.wav\ta\tnan\n")
    with pytest.raises(InputError, match="line 2: column 'a': 'nan' is not a number"):
        package(runs, authors, tmp_path / "out")
    assert files_below(tmp_path / "out") == []


@pytest.mark.parametrize(("content", "told"), [
    (None, "predictions/evaluation.csv: no such file; make it with: python task1a.py --stage predict"),
    ("", "the file is empty"),
    ("filename\tscene_label\ta\tb\n", "lists no clip"),
    ("filename\tscene_label\ta\tb\naudio/0.wav\ta\t0.5\n", "line 2: 3 fields where the header"),
    ("filename\tscene_label\ta\naudio/0.wav\ta\t1\naudio/1.wav\ta\t\n", "line 3: column 'a': '' is not a number"),
    ("filename\tscene_label\ta\naudio/0.wav\ta\t1\naudio/1.wav\ta\tinf\n", "column 'a': 'inf' is not a number"),
    ("filename\tscene_label\ta\naudio/0.wav\ta\t1\naudio/1.wav\ta\t1\t1\n", "line 3: 4 fields where the header"),
])
def test_no_predictions_no_package(tmp_path, make_run, authors, capsys, content, told):
    run = make_run(tmp_path / "run", clips=1)
    path = run / "predictions" / "evaluation.csv"
    path.unlink() if content is None else path.write_text(content)
    assert run_command(lambda: main([str(run), "--authors", str(authors), "--out", str(tmp_path / "out")])) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert told in error.replace(os.sep, "/")
    assert files_below(tmp_path / "out") == []


def test_wrong_runs(tmp_path, make_run, authors):
    run = make_run(tmp_path / "run", clips=1)
    for runs, told in (([run] * 2, "given twice"), ([tmp_path / "no"], "no such run folder"), ([], "0 runs given"),
                       ([tmp_path / str(n) for n in range(5)], "5 runs given; a team hands in 1 to 4")):
        with pytest.raises(InputError, match=told):
            package(runs, authors, tmp_path / "out")
    (run / "complexity.json").write_text("{}")
    with pytest.raises(InputError, match="complexity.json: damaged, .* policies: Field required; make it again with"):
        package([run], authors, tmp_path / "out")


def test_the_part_is_checked_before_it_takes_its_name(tmp_path, make_run, authors, monkeypatch):
    run, out, seen = make_run(tmp_path / "run", clips=1), tmp_path / "out", []

    def look(path, rules):
        seen.append((zipfile.is_zipfile(path), path.parent == out, (out / f"{TEAM}_task1.zip").exists()))
        return validate(path, rules)

    monkeypatch.setattr(packaging, "validate", look)
    package([run], authors, out)
    assert seen == [(True, True, False)]


@pytest.mark.parametrize(("year", "task"), [("2021", "task1a"), ("2022", "task1"), ("2023", "task1"),
                                            ("2025", "task1")])
def test_each_edition_has_its_own_package(tmp_path, make_run, said, rendered, year, task):
    path = tmp_path / "authors.yaml"
    assert main(["--init", "--edition", year, "--out", str(path)]) == 0
    path.write_text(path.read_text(encoding="utf-8").replace("@example.org", "@tuni.test")
                    .replace("//example.org", "//tuni.test")
                    .replace("training: null", "training: 0.5").replace("inference: null", "inference: 0.25"), "utf-8")
    config = said.config if year == "2021" else short_clips(said.config)
    runs = [make_run(tmp_path / f"seed{seed}", clips=12, config=config, seed=seed) for seed in range(2)]
    made = package(runs, path, tmp_path / "out", small(EDITIONS[year]))
    assert [finding.found for finding in made.findings] == (["a stub"] if year == "2025" else [])
    label = f"Lastname_INST_{task}_2"
    above = "Lastname_INST_task1/task1" if year == "2021" else "task1"
    with zipfile.ZipFile(made.zip) as archive:
        assert len(archive.namelist()) == 4
        meta = yaml.safe_load(archive.read(f"{above}/{label}/{label}.meta.yaml"))
    assert meta["submission"]["label"] == label
    assert ("energy_consumption" in meta["system"]) == (year == "2023")
    assert validate(made.zip, small(EDITIONS[year])) == ()
    assert len(rendered) == (2 if year == "2025" else 0)


def test_a_package_of_2025_has_an_inference_package_beside_it(tmp_path, make_device_run, authors_2025, rendered):
    run, out, rules = make_device_run(tmp_path), tmp_path / "out", small(TASK1_2025)
    made = package([run, tmp_path / "asc" / "seed0"], authors_2025, out, rules)
    labels, code = [f"{TEAM}_task1_1", f"{TEAM}_task1_2"], f"{TEAM}_task1_inference"
    assert [(finding.file, finding.found) for finding in made.findings] == [(code, "a stub")]
    assert rendered == [(dict(zip(labels, (run, tmp_path / "asc" / "seed0"), strict=True)), out), (out / code, 2025)]
    assert {path.name for path in out.iterdir()} == {
        code, f"{TEAM}_task1.zip", *labels, *(f"{label}.report.md" for label in labels)}
    with zipfile.ZipFile(made.zip) as archive:  # the code is published elsewhere
        assert archive.namelist() == sorted(f"task1/{label}/{label}.{kind}" for label in labels
                                            for kind in ("meta.yaml", "output.csv"))
        metas = [yaml.safe_load(archive.read(f"task1/{label}/{label}.meta.yaml")) for label in labels]
    assert [meta["system"]["description"]["num_models_at_inference"] for meta in metas] == [3, 1]
    assert [meta["system"]["inference_code"] for meta in metas] == ["https://code.tuni.test/asc_inference"] * 2

    # the folder and the inference package by itself are checked, and none of its code is executed
    for path in (out, out / code):
        [finding] = validate(path, rules)
        assert (finding.file, finding.found) == (code, "a stub")
        assert rendered.pop() == (out / code, 2025)
    with pytest.raises(InputError, match="an inference package, which --run does not compare"):
        validate(out / code, rules, [run])

    # a repository of the authors is not taken from them, nor a folder that was made by others
    (out / code / ".git").mkdir()
    packaging.clear(out)
    assert files_below(out) == [f"{code}/.task1a", *(f"{code}/{TEAM}_task1/{label}.py" for label in labels)]
    (out / code / ".git").rmdir()
    (out / code / ".task1a").rename(out / code / "task1a")
    packaging.clear(out)
    assert (out / code / "task1a").exists()
    (out / code / "task1a").rename(out / code / ".task1a")
    packaging.clear(out)
    assert list(out.iterdir()) == []


def test_no_package_of_2025_without_its_inference_package(tmp_path, make_device_run, authors_2025, rendered,
                                                          monkeypatch):
    def refuse(runs, out):
        raise InputError("no such model")

    def find_error(folder, rules):
        return [Finding("error", "a.safetensors", "", "128,001 bytes", "at most 128,000 bytes")]

    run, out = make_device_run(tmp_path), tmp_path / "out"
    package([run], authors_2025, out, small(TASK1_2025))
    monkeypatch.setattr("submission.inference2025.check.check", find_error)
    made = package([run], authors_2025, out, small(TASK1_2025))
    assert made.zip is None and made.findings[-1].found == "128,001 bytes"
    assert list(out.iterdir()) == []
    monkeypatch.setattr("submission.inference2025.package.render", refuse)
    with pytest.raises(InputError, match="no such model"):
        package([run], authors_2025, out, small(TASK1_2025))
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("changes", [{"ensemble": ["a", "b"]}, {"evaluation": {"time_rolls": 3}}])
def test_a_system_of_2025_predicts_a_clip_once(tmp_path, make_run, authors_2025, said, changes):
    run = make_run(tmp_path / "run", clips=12, config=short_clips(said.config) | changes)
    with pytest.raises(InputError, match=r"neither ensembles nor evaluation\.time_rolls"):
        package([run], authors_2025, tmp_path / "out", small(TASK1_2025))
    assert files_below(tmp_path / "out") == []


def test_the_address_of_the_inference_package_is_asked_for(tmp_path, make_run, authors, said, rendered):
    run = make_run(tmp_path / "run", clips=12, config=short_clips(said.config))
    with pytest.raises(InputError, match=r"authors.yaml, system.inference_code: found null, expected text"):
        package([run], authors, tmp_path / "out", small(TASK1_2025))
    made = package([run], None, tmp_path / "out", small(TASK1_2025))
    assert [(finding.level, finding.where) for finding in made.findings[1:]] == [
        ("not_submittable", "system.inference_code"), ("not_submittable", "submission.authors")]


@pytest.mark.parametrize("year", ["2021", "2022", "2023"])
def test_other_editions_do_not_tell_the_devices(tmp_path, make_device_run, year):
    """A system with models for single devices cannot be submitted to an edition whose clips are of unknown devices."""
    text = authors_file.template(EDITIONS[year]).replace("@example.org", "@tuni.test")
    (tmp_path / "authors.yaml").write_text(text.replace("training: null", "training: 1")
                                           .replace("inference: null", "inference: 1"), encoding="utf-8")
    made = package([make_device_run(tmp_path)], tmp_path / "authors.yaml", tmp_path / "out", small(EDITIONS[year]))
    [finding] = made.findings
    assert (finding.level, finding.found) == ("not_submittable", "models for the devices a, s1")
    assert "names no devices" in finding.expected


def test_a_system_of_2024_is_a_run_for_each_split(tmp_path, make_run, authors, said):
    splits = ("split_5", "split_10", "split_25", "split_50", "split_100")
    for seed, (split, train) in enumerate(zip(splits, (6_981, 13_962, 34_900, 69_811, 139_620), strict=True)):
        make_run(tmp_path / split / "asc" / "seed0", clips=12, config=short_clips(said.config), seed=seed, train=train)
    made = package([tmp_path / "{split}" / "asc" / "seed0"], authors, tmp_path / "out", small(TASK1_2024))
    assert made.findings == ()
    label = f"{TEAM}_task1_1"
    with zipfile.ZipFile(made.zip) as archive:
        assert archive.namelist() == sorted([*(f"task1/{label}/{label}.output.{split}.csv" for split in splits),
                                             f"task1/{label}/{label}.meta.yaml"])
        for split in splits:
            given = pd.read_csv(tmp_path / split / "asc" / "seed0" / "predictions" / "evaluation.csv", sep="\t")
            packed = pd.read_csv(archive.open(f"task1/{label}/{label}.output.{split}.csv"), sep="\t")
            pd.testing.assert_frame_equal(packed, given, check_exact=False, rtol=1e-8)
    shutil.rmtree(tmp_path / "split_25")
    with pytest.raises(InputError, match="split_25/asc/seed0: no such run folder"):
        package([tmp_path / "{split}" / "asc" / "seed0"], authors, tmp_path / "out", small(TASK1_2024))
    with pytest.raises(InputError, match="write {split} where their paths differ"):
        package([tmp_path / "split_5" / "asc" / "seed0"], authors, tmp_path / "out", small(TASK1_2024))


@pytest.mark.parametrize("counts", [[139_620] * 5, [6_981, 13_962, 69_811, 34_900, 139_620],
                                    [6_981, 13_962, 34_900, 69_811, 69_811]])
def test_runs_that_were_not_trained_on_their_shares(tmp_path, make_run, authors, said, counts):
    for seed, (split, train) in enumerate(zip(TASK1_2024.splits, counts, strict=True)):
        make_run(tmp_path / split / "asc" / "seed0", clips=12, config=short_clips(said.config), seed=seed, train=train)
    made = package([tmp_path / "{split}" / "asc" / "seed0"], authors, tmp_path / "out", small(TASK1_2024))
    [finding] = made.findings
    assert finding.expected == f"5 / 10 / 25 / 50 / 100 % of {max(counts):,} clips, a run for each share"
    assert finding.level == "error" and made.zip is None


def test_operations_of_longer_clips_are_not_stated_for_short_ones(tmp_path, make_run, authors):
    run = make_run(tmp_path / "run", clips=12)
    with pytest.raises(InputError, match="features.clip_seconds is 10, .* 1 s; train with features.clip_seconds=1"):
        package([run], authors, tmp_path / "out", small(TASK1_2022))
    assert files_below(tmp_path / "out") == []


def test_operations_that_are_not_known_are_no_package(tmp_path, make_run, authors, said):
    run = make_run(tmp_path / "run", clips=12, config=short_clips(said.config))
    record = json.loads((run / "complexity.json").read_text())
    (run / "complexity.json").write_text(json.dumps(record | {"multiply_accumulates": None}))
    made = package([run], authors, tmp_path / "out", small(TASK1_2022))
    assert made.zip is None
    assert [(finding.where, finding.found) for finding in made.findings] == [("system.complexity.macs", "null")]


def test_an_ensemble_is_one_system(tmp_path, make_run, authors, said, small_rules):
    run = make_run(tmp_path / "run", clips=12, config=said.config | {"ensemble": ["a", "b"]})
    made = package([run], authors, tmp_path / "out", small_rules)
    assert made.findings == ()
    meta = yaml.safe_load((tmp_path / "out" / f"{TEAM}_task1a_1" / f"{TEAM}_task1a_1.meta.yaml").read_text("utf-8"))
    assert meta["system"]["description"]["ensemble_method_subsystem_count"] == 2
    assert meta["system"]["complexity"]["model_size"] == 32220 / 1024


def test_the_report_goes_into_the_zip_as_it_is(tmp_path, make_run, authors, small_rules):
    pdf = tmp_path / "report.pdf"
    pdf.write_bytes(b"%PDF-1.7\n" + bytes(range(256)))
    run = make_run(tmp_path / "run", clips=12)
    made = [package([run], authors, tmp_path / out, small_rules, pdf) for out in ("a", "b")]
    assert made[0].findings == ()
    assert made[0].zip.read_bytes() == made[1].zip.read_bytes()
    with zipfile.ZipFile(made[0].zip) as archive:
        name = f"{TEAM}_task1/task1/{TEAM}_task1.technical_report.pdf"
        assert name in archive.namelist()
        assert archive.read(name) == pdf.read_bytes()
    assert pdf.exists()


def test_what_is_no_report_is_refused(tmp_path, make_run, capsys, monkeypatch):
    run, pdf = make_run(tmp_path / "run", clips=1), tmp_path / "report.pdf"
    arguments = [str(run), "--out", str(tmp_path / "out"), "--report", str(pdf)]
    assert run_command(lambda: main(arguments)) == 2
    pdf.write_bytes(b"PK\x03\x04")
    assert run_command(lambda: main(arguments)) == 2
    monkeypatch.setattr(packaging, "MAX_PDF_BYTES", 20)
    pdf.write_bytes(b"%PDF-1.7\n" + bytes(20))
    assert run_command(lambda: main(arguments)) == 2
    assert [line.split(": ", 2)[2] for line in capsys.readouterr().err.splitlines()] == [
        "no such report", "not a PDF file", "29 bytes; a report has at most 20"]
    assert files_below(tmp_path / "out") == []


def test_a_report_that_was_edited_is_left_alone(tmp_path, make_run, authors, small_rules):
    run, out = make_run(tmp_path / "run", clips=12), tmp_path / "out"
    package([run], authors, out, small_rules)
    path = out / f"{TEAM}_task1a_1.report.md"
    draft = path.read_text(encoding="utf-8")
    assert package([run], authors, out, small_rules).findings == ()  # untouched, it is written anew
    path.write_text(draft.replace("**[TO BE WRITTEN: title]**", "Our title"), encoding="utf-8")
    [finding] = package([run], authors, out, small_rules).findings
    assert (finding.level, finding.file, finding.found) == ("warning", path.name, "a report that was edited")
    assert "Our title" in path.read_text(encoding="utf-8")
    packaging.clear(out)
    assert files_below(out) == [path.name]


def test_the_package_of_another_edition_is_replaced_as_a_whole(tmp_path, make_run, authors, said):
    run = make_run(tmp_path / "run", clips=12, config=short_clips(said.config))
    for rules, label in ((TASK1A_2021, "task1a_1"), (TASK1_2022, "task1_1"), (TASK1A_2021, "task1a_1")):
        package([run], authors, tmp_path / "out", small(rules))
        assert {path.name for path in (tmp_path / "out").iterdir()} == {
            f"{TEAM}_{label}", f"{TEAM}_{label}.report.md", f"{TEAM}_task1.zip"}


def test_init_writes_the_template_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["--init", "--edition", "2023"]) == 0
    path = tmp_path / "authors.yaml"
    assert path.read_text(encoding="utf-8") == authors_file.template(EDITIONS["2023"])
    path.write_text("mine")
    assert run_command(lambda: main(["--init"])) == 2
    assert "authors.yaml: exists already; name another file with --out FILE" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("arguments", "told"), [
    (["run"], "--out DIR is missing"), (["--out", "out"], "0 runs given"),
    (["run", "--out", "out", "--edition", "2019"], "invalid choice: '2019'"),
    (["run", "--out", "out", "--edition", "2026"], "DCASE 2026 has no scene classification task"),
    (["run", "--init"], "--init takes no RUN"),
])
def test_wrong_arguments_are_told_in_one_line(tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert run_command(lambda: main(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
    assert list(tmp_path.iterdir()) == []
