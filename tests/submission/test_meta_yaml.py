import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from submission import authors as authors_file
from submission import metadata as meta_yaml
from submission.rules import EDITIONS, TASK1_2023, TASK1_2024, TASK1_2025, TASK1A_2021
from task1a.errors import InputError

ENERGY = {f"system.energy_consumption.{key}": 0.5 for key in ("training", "inference", "baseline_inference")}
# what the organisers ask for in the block ``system``, by hand from their descriptions of the tasks
DESCRIPTION = {"input_sampling_rate", "acoustic_features", "data_augmentation", "machine_learning_method",
               "external_data_usage", "complexity_management"}
DECISION = {"embeddings", "ensemble_method_subsystem_count", "decision_making"}
SYSTEM = {
    "2021": (DESCRIPTION | DECISION, {"total_parameters", "total_parameters_non_zero", "model_size"}),
    "2022": (DESCRIPTION | DECISION | {"pipeline", "framework"},
             {"total_parameters", "total_parameters_non_zero", "memory_use", "macs"}),
    "2023": (DESCRIPTION | DECISION | {"pipeline", "framework"},
             {"total_parameters", "total_parameters_non_zero", "total_model_size", "memory_use", "macs"}),
    "2024": (DESCRIPTION | {"pipeline", "framework", "split_adaptations", "system_adaptations"},
             {"total_parameters", "total_model_size", "macs"}),
    "2025": (DESCRIPTION | {"pipeline", "framework", "device_information", "num_models_at_inference",
                            "model_weight_sharing"},
             {"total_parameters", "total_model_size", "macs"}),
}
ENTRIES = {"2023": {"energy_consumption"}, "2025": {"inference_code"}}
BLOCKS = {"2024": ["split_5", "split_10", "split_25", "split_50", "split_100"], "2025": ["device_specific", "general"]}


def build(run, authors, label="Muller-Los_UGraz_task1a_1"):
    return meta_yaml.build(label, authors_file.read(authors, TASK1A_2021), [meta_yaml.read_records(run)], TASK1A_2021)


def test_metadata_is_what_the_run_and_the_authors_say(tmp_path, make_run, authors, said):
    meta = build(make_run(tmp_path / "run", clips=1), authors)
    assert yaml.safe_load(meta_yaml.to_text(meta, TASK1A_2021.comments)) == {
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
            "overall": {"logloss": 1.0, "accuracy": 55.0},
            "class_wise": {label: {"logloss": 1 + i / 8, "accuracy": 50.5 + i} for i, label in enumerate(said.labels)},
            "device_wise": {device: {"logloss": 1 / (i + 1), "accuracy": 60.0 - i}
                            for i, device in enumerate(said.devices)}}},
    }


@pytest.mark.parametrize(("section", "changes", "key", "expected"), [
    ("training", {"mixup_alpha": 0}, "data_augmentation", "SpecAugment, time rolling"),
    ("training", {"frequency_masks": 0}, "data_augmentation", "mixup, SpecAugment, time rolling"),
    ("training", {"frequency_masks": 0, "time_mask_frames": 0, "roll_seconds": 0.0}, "data_augmentation", "mixup"),
    ("training", {"mixup_alpha": 0, "frequency_mask_bins": 0, "time_masks": 0, "roll_seconds": 0},
     "data_augmentation", None),
    ("compression", {"enabled": False}, "complexity_management", None),
    ("compression", {"enabled": True, "teachers": []}, "complexity_management", "pruning, weight quantization"),
    ("compression", {"enabled": True, "ratio": 0.0}, "complexity_management",
     "weight quantization, knowledge distillation"),
    ("compression", {"enabled": True, "ratio": 0.0, "target_bytes": 65536}, "complexity_management",
     "pruning, weight quantization, knowledge distillation"),
    ("compression", {}, "pipeline", "training"),
    ("compression", {"enabled": True}, "pipeline",
     "training, pruning, quantization-aware training, knowledge distillation"),
    ("compression", {"enabled": True, "ratio": 0.0, "teachers": []}, "pipeline",
     "training, quantization-aware training"),
    ("ensemble", None, "framework", "pytorch"),
    ("ensemble", ["a", "b"], "ensemble_method_subsystem_count", 2),
    ("ensemble", ["a", "b"], "decision_making", "average"),
])
def test_the_description_names_what_was_done(tmp_path, make_run, said, section, changes, key, expected):
    changed = said.config[section] | changes if isinstance(changes, dict) else changes or []
    record = meta_yaml.read_records(make_run(tmp_path / "run", clips=1, config=said.config | {section: changed}))
    assert meta_yaml.build("A_B_task1_1", {}, [record], TASK1_2023)["system"]["description"][key] == expected


@pytest.mark.parametrize("year", EDITIONS)
def test_every_edition_gets_its_fields(tmp_path, make_device_run, make_run, authors_2025, year):
    rules = EDITIONS[year]
    said = authors_file.read(authors_2025, rules) if year != "2023" else ENERGY
    run = make_device_run(tmp_path) if year == "2025" else make_run(tmp_path / "run", clips=1)
    records = [meta_yaml.read_records(run)] * (5 if year == "2024" else 1)
    meta = meta_yaml.build("A_B_task1_1", {"system.external_datasets": [], "system.complexity.memory_use": None,
                                           "system.description.external_data_usage": None, **said}, records, rules)
    description, complexity = SYSTEM[year]
    assert set(meta["system"]["description"]) == description
    assert set(meta["system"]["complexity"]) == complexity
    assert set(meta["system"]) == {"description", "complexity", "external_datasets", "source_code",
                                   *ENTRIES.get(year, ())}
    results = meta["results"]["development_dataset"]
    assert year not in BLOCKS or list(results) == BLOCKS[year]
    blocks = list(results.values()) if year in BLOCKS else [results]
    assert all(set(block) == {"overall", "class_wise", "device_wise"} for block in blocks)


def test_sizes_of_the_later_editions(tmp_path, make_run):
    complexity = meta_yaml.build("A_B_task1_1", ENERGY, [meta_yaml.read_records(make_run(tmp_path / "run", clips=1))],
                                 TASK1_2023)["system"]["complexity"]
    assert complexity["total_model_size"] == 20000 * 1 + 2695 * 2  # int8 and float16, zeros too
    assert complexity["macs"] == 19562940
    assert complexity["total_parameters"] == 22695


def test_the_system_of_several_splits_states_the_largest_size(tmp_path, make_run):
    runs = [make_run(tmp_path / str(number), clips=1) for number in range(5)]
    record = json.loads((runs[1] / "complexity.json").read_text())
    record["multiply_accumulates"] = 20_000_000
    (runs[1] / "complexity.json").write_text(json.dumps(record))
    evaluation = json.loads((runs[4] / "evaluation.json").read_text())
    evaluation["overall"]["logloss"] = 0.75
    (runs[4] / "evaluation.json").write_text(json.dumps(evaluation))
    records = [meta_yaml.read_records(run) for run in runs]
    meta = meta_yaml.build("A_B_task1_1", {}, records, TASK1_2024)
    assert meta["system"]["complexity"] == {"total_parameters": 22695, "total_model_size": 25390, "macs": 20_000_000}
    overall = {split: block["overall"]["logloss"] for split, block in meta["results"]["development_dataset"].items()}
    assert overall == {"split_5": 1.0, "split_10": 1.0, "split_25": 1.0, "split_50": 1.0, "split_100": 0.75}
    [finding] = meta_yaml.differing_sizes("A_B_task1_1", records, TASK1_2024)
    assert (finding.level, finding.where) == ("warning", "system.complexity.macs")
    assert "19,562,940 / 20,000,000 / 19,562,940" in finding.found
    assert meta_yaml.differing_sizes("A_B_task1_1", records[2:], TASK1_2024) == []


def test_a_system_with_models_for_single_devices(tmp_path, make_device_run, said):
    record = meta_yaml.read_records(make_device_run(tmp_path))
    meta = meta_yaml.build("A_B_task1_1", {}, [record], TASK1_2025)
    description = meta["system"]["description"]
    assert description["device_information"] == "per-device end-to-end fine-tuning"
    assert description["num_models_at_inference"] == 3  # the general one, a and s1
    assert description["model_weight_sharing"] == "fully device-specific"
    assert description["pipeline"] == "training, device-specific fine-tuning"
    results = meta["results"]["development_dataset"]
    assert results["device_specific"]["overall"] == {"logloss": 1.0, "accuracy": 55.0}
    assert results["device_specific"]["class_wise"]["bus"] == {"logloss": 1.125, "accuracy": 51.5}
    assert results["general"]["overall"] == {"logloss": 1.25, "accuracy": 50.0}
    assert results["general"]["device_wise"]["b"] == {"logloss": 1.25, "accuracy": 52.0}


def test_an_ordinary_system_of_2025_is_a_general_model(tmp_path, make_run):
    meta = meta_yaml.build("A_B_task1_1", {}, [meta_yaml.read_records(make_run(tmp_path / "run", clips=1))], TASK1_2025)
    description = meta["system"]["description"]
    assert description["device_information"] is None
    assert description["num_models_at_inference"] == 1
    assert description["model_weight_sharing"] == "fully shared"
    assert description["pipeline"] == "training"
    results = meta["results"]["development_dataset"]
    assert results["device_specific"] is None
    assert results["general"]["overall"] == {"logloss": 1.0, "accuracy": 55.0}
    # as text, the block is null and has no fields
    text = meta_yaml.to_text(meta, TASK1_2025.comments)
    assert yaml.safe_load(text) == meta
    assert text.count("device_specific: null\n") == 1


@pytest.mark.parametrize("record", ["evaluation.json", "complexity.json", "config.yaml"])
def test_a_general_model_without_its_records(tmp_path, make_device_run, record):
    run = make_device_run(tmp_path)
    (tmp_path / "asc" / "seed0" / record).unlink()
    with pytest.raises(InputError, match=rf"asc.seed0.{record}: no such file; make it with"):
        meta_yaml.read_records(run)


@pytest.mark.parametrize(("said", "expected"), [(None, "https://code.tuni.test/asc"), ("https://b.test", "https://b.test")])
def test_source_code_is_the_runs_unless_the_authors_say_otherwise(tmp_path, make_run, said, expected):
    record = meta_yaml.read_records(make_run(tmp_path / "run", clips=1))
    meta = meta_yaml.build("A_B_task1a_1", {"system.source_code": said}, [record], TASK1A_2021)
    assert meta["system"]["source_code"] == expected


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
    lines = meta_yaml.to_text(build(make_run(tmp_path / "run", clips=1), authors), TASK1A_2021.comments).splitlines()
    told = {path: comment for path, comment in TASK1A_2021.comments.items() if comment}
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
    assert yaml.safe_load(meta_yaml.to_text(meta, TASK1A_2021.comments)) == meta


@pytest.mark.parametrize(("name", "stage"), [("complexity.json", "complexity"), ("evaluation.json", "evaluate"),
                                             ("data.json", "data"), ("config.yaml", "data")])
def test_a_missing_or_damaged_record_names_its_stage(tmp_path, make_run, name, stage):
    run = make_run(tmp_path / "run", clips=1)
    for spoil in (lambda path: path.write_text('{"a": [', encoding="utf-8"), lambda path: path.unlink()):
        spoil(run / name)
        with pytest.raises(InputError, match=f"^[^\n]*{name}: [^\n]*python task1a.py --stage {stage}[^\n]*$"):
            meta_yaml.read_records(run)
