import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from submission import meta_yaml
from submission.rules import TASK1A_2021
from task1a.errors import InputError


def build(run, authors, label="Muller-Los_UGraz_task1a_1"):
    people = meta_yaml.read_authors(authors, TASK1A_2021)
    return meta_yaml.build(label, people, meta_yaml.read_records(run), TASK1A_2021)


def test_metadata_is_what_the_run_and_the_authors_say(tmp_path, make_run, authors, said):
    meta = build(make_run(tmp_path / "run", clips=1), authors)
    assert yaml.safe_load(meta_yaml.to_text(meta, TASK1A_2021)) == {
        "submission": {"label": "Muller-Los_UGraz_task1a_1", "name": "BC-ResNet-ASC-1", "abbreviation": "BCRes1",
                       "authors": said.authors},
        "system": {
            "description": {
                "input_sampling_rate": "16kHz", "acoustic_features": "log-mel energies", "embeddings": None,
                "data_augmentation": "mixup, SpecAugment, time rolling", "machine_learning_method": "BC-ResNet-ASC",
                "ensemble_method_subsystem_count": None, "decision_making": "maximum likelihood",
                "external_data_usage": None, "complexity_management": None},
            "complexity": {"total_parameters": 22695, "total_parameters_non_zero": 22000, "model_size": 31.46484375},
            "external_datasets": [],
            "source_code": "https://code.tuni.test/asc"},
        "results": {"development_dataset": {
            "overall": {"logloss": 1.25, "accuracy": 58.9},
            "class_wise": {label: {"logloss": 1 + i / 8, "accuracy": 50.5 + i} for i, label in enumerate(said.labels)},
            "device_wise": {device: {"logloss": 1 / (i + 1), "accuracy": 60.0 - i}
                            for i, device in enumerate(said.devices)}}},
    }


@pytest.mark.parametrize(("changes", "expected"), [
    ({"mixup_alpha": 0}, "SpecAugment, time rolling"),
    ({"frequency_masks": 0}, "mixup, SpecAugment, time rolling"),
    ({"frequency_masks": 0, "time_mask_frames": 0, "roll_seconds": 0.0}, "mixup"),
    ({"mixup_alpha": 0, "frequency_mask_bins": 0, "time_masks": 0, "roll_seconds": 0}, None),
])
def test_augmentation_names_what_was_not_zero(tmp_path, make_run, authors, said, changes, expected):
    config = said.config | {"training": said.config["training"] | changes}
    description = build(make_run(tmp_path / "run", clips=1, config=config), authors)["system"]["description"]
    assert description["data_augmentation"] == expected


@pytest.mark.parametrize(("changes", "expected"), [
    ({"enabled": False}, None),
    ({"teachers": []}, "pruning, weight quantization"),
    ({"ratio": 0.0}, "weight quantization, knowledge distillation"),
    ({"ratio": 0.0, "target_bytes": 65536}, "pruning, weight quantization, knowledge distillation"),
])
def test_complexity_management_names_what_was_done(tmp_path, make_run, authors, said, changes, expected):
    config = said.config | {"compression": said.config["compression"] | {"enabled": True} | changes}
    description = build(make_run(tmp_path / "run", clips=1, config=config), authors)["system"]["description"]
    assert description["complexity_management"] == expected


def test_an_ensemble_says_how_many_and_how_they_decide(tmp_path, make_run, authors, said):
    config = said.config | {"ensemble": ["a", "b"]}
    description = build(make_run(tmp_path / "run", clips=1, config=config), authors)["system"]["description"]
    assert (description["ensemble_method_subsystem_count"], description["decision_making"]) == (2, "average")


def test_classes_and_devices_without_clips_are_left_out(tmp_path, make_run, authors, said):
    run = make_run(tmp_path / "run", clips=1)
    record = json.loads((run / "evaluation.json").read_text())
    record["class_wise"]["bus"] = None
    record["device_wise"]["s6"] = None
    (run / "evaluation.json").write_text(json.dumps(record))
    results = build(run, authors)["results"]["development_dataset"]
    assert list(results["class_wise"]) == [label for label in said.labels if label != "bus"]
    assert list(results["device_wise"]) == list(said.devices[:-1])


def test_every_field_has_its_comment_above_it(tmp_path, make_run, authors):
    lines = meta_yaml.to_text(build(make_run(tmp_path / "run", clips=1), authors), TASK1A_2021).splitlines()
    told = {field.path: field.comment for field in TASK1A_2021.fields if field.comment}
    written = [(lines[i - 1].strip(), line.strip()) for i, line in enumerate(lines)]
    for path, comment in told.items():
        if "external_datasets.*" not in path:
            key = path.rsplit(".", 1)[-1]
            assert any(above == f"# {comment}" and line.startswith(f"{key}:") for above, line in written), path
    assert sum(line.startswith("#") for _, line in written) == len(told) - 3  # each once; no external data set here


@given(st.text(max_size=40), st.text(min_size=1, max_size=40), st.floats(0, 1e6))
@settings(max_examples=60, deadline=None)
def test_any_text_survives_the_comments(name, scene, number):
    meta = {"submission": {"name": name, "label": "null", "abbreviation": "Yes: #1",
                           "authors": [{"lastname": "No", "firstname": name}, {"lastname": "1e3"}]},
            "results": {"development_dataset": {"class_wise": {scene: {"logloss": number}}}}}
    assert yaml.safe_load(meta_yaml.to_text(meta, TASK1A_2021)) == meta


@pytest.mark.parametrize(("lastname", "institute", "expected"), [
    ("Kim", "QTI", "Kim_QTI"),
    ("Martín-Morató", "TAU", "Martin-Morato_TAU"),
    ("van der Berg_Løvås", "A&B 2", "vanderBergLovas_AB2"),
    ("Strauß.", "-ÉTS-", "Strauss_ETS"),
])
def test_label_parts_are_plain(tmp_path, said, lastname, institute, expected):
    author = said.authors[0] | {"lastname": lastname}
    author["affiliation"] = author["affiliation"] | {"abbreviation": institute}
    path = tmp_path / "authors.yaml"
    path.write_text(yaml.safe_dump({"authors": [author, said.authors[0]]}), encoding="utf-8")
    people = meta_yaml.read_authors(path, TASK1A_2021)
    assert meta_yaml.team(people) == expected
    assert [person.get("corresponding") for person in people] == [True, None]
    assert TASK1A_2021.label_pattern.fullmatch(f"{expected}_task1a_4")


def test_authors_file_problems_are_told_line_by_line(tmp_path):
    path = tmp_path / "authors.yaml"
    path.write_text("authors:\n"
                    "  - {lastname: NO, firstname: A, email: a.b.test, corresponding: true,\n"
                    "     affiliation: {abbreviation: X, institute: Y, location: Z}}\n"
                    "  - {lastname: B, firstname: A, email: a@b.test, corresponding: true}\n", encoding="utf-8")
    with pytest.raises(InputError) as problems:
        meta_yaml.read_authors(path, TASK1A_2021)
    assert sorted(line.removeprefix(f"{path}, ") for line in str(problems.value).splitlines()) == [
        "authors: found 2 corresponding authors, expected exactly one",
        "authors[0].affiliation.department: found no such field, expected text, or null",
        "authors[0].email: found 'a.b.test', expected an e-mail address",
        "authors[0].lastname: found False, expected text",
        "authors[1].affiliation: found no such field, expected a block of fields",
    ]


@pytest.mark.parametrize(("text", "expected"), [
    ("authors: [", "not a YAML file"),
    ("[]", "authors: found null, expected a list"),
    ("authors: []", "expected a list with at least one item"),
    ("authors: [{lastname: 王, firstname: A, email: a@b.test, affiliation: "
     "{abbreviation: X, institute: Y, department: null, location: Z}}]", "lastname: found 王, expected at least one"),
])
def test_unusable_authors_files(tmp_path, text, expected):
    path = tmp_path / "authors.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="^[^\n]*" + expected.replace("[", r"\[")):
        meta_yaml.read_authors(path, TASK1A_2021)


@pytest.mark.parametrize(("name", "stage"), [("complexity.json", "complexity"), ("evaluation.json", "evaluate"),
                                             ("data.json", "data"), ("config.yaml", "data")])
def test_a_missing_or_damaged_record_names_its_stage(tmp_path, make_run, name, stage):
    run = make_run(tmp_path / "run", clips=1)
    for spoil in (lambda path: path.write_text('{"a": [', encoding="utf-8"), lambda path: path.unlink()):
        spoil(run / name)
        with pytest.raises(InputError, match=f"^[^\n]*{name}: [^\n]*python task1a.py --stage {stage}[^\n]*$"):
            meta_yaml.read_records(run)
