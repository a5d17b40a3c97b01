"""Packages of 2021 to 2025, each by its own rules and by those of the others."""
from copy import deepcopy
from functools import reduce

import pytest
import yaml

from submission.rules import EDITIONS
from submission.validation import metadata as check_meta

AUTHOR = "submission.authors.0"
RESULTS = "results.development_dataset"
# what the organisers' validators of each year ask for, by block
COMMON = {
    "": ("submission", "system", "results"),
    "submission": ("label", "name", "abbreviation", "authors"),
    AUTHOR: ("lastname", "firstname", "email", "affiliation"),
    "system": ("description", "complexity", "external_datasets", "source_code"),
    "system.external_datasets.0": ("name", "url", "total_audio_length"),
    # and "results.development_dataset", without which "results" would be empty
}
DESCRIPTION = ("input_sampling_rate", "acoustic_features", "data_augmentation", "machine_learning_method",
               "external_data_usage")
UNTIL_2023 = ("embeddings", "ensemble_method_subsystem_count", "decision_making")
SINCE_2022 = ("complexity_management", "pipeline", "framework")
BY_YEAR = {
    "2021": {"system.description": DESCRIPTION + UNTIL_2023, "system.complexity": ("total_parameters",)},
    "2022": {"system.description": DESCRIPTION + UNTIL_2023 + SINCE_2022,
             "system.complexity": ("total_parameters", "total_parameters_non_zero", "memory_use", "macs")},
    "2023": {"system.description": DESCRIPTION + UNTIL_2023 + SINCE_2022, "system": ("energy_consumption",),
             "system.complexity": ("total_model_size", "total_parameters", "total_parameters_non_zero", "memory_use",
                                   "macs"),
             "system.energy_consumption": ("training", "inference", "baseline_inference")},
    "2024": {"system.description": (*DESCRIPTION, *SINCE_2022, "split_adaptations", "system_adaptations"),
             "system.complexity": ("total_model_size", "total_parameters", "macs"),
             RESULTS: ("split_5", "split_10", "split_25", "split_50", "split_100")},
    "2025": {"system": ("inference_code",),
             "system.description": (*DESCRIPTION, *SINCE_2022, "device_information", "num_models_at_inference",
                                    "model_weight_sharing"),
             "system.complexity": ("total_model_size", "total_parameters", "macs"),
             RESULTS: ("device_specific", "general")},
}


def required(year):
    """Places of all fields that the organisers ask for."""
    places = [(block, key) for blocks in (COMMON, BY_YEAR[year]) for block, keys in blocks.items() for key in keys]
    for top in [f"{RESULTS}.{key}" for key in BY_YEAR[year].get(RESULTS, ())] or [RESULTS]:
        places += [(top, key) for key in ("overall", "class_wise", "device_wise")]
        places += [(f"{top}.{block}", key) for block in ("overall", "class_wise.bus", "device_wise.s3")
                   for key in ("logloss", "accuracy")]
    return places


def without(tree, block, key):
    """A copy of a tree without a field."""
    copy = deepcopy(tree)
    keys = [int(part) if part.isdigit() else part for part in block.split(".") if part]
    del reduce(lambda node, part: node[part], keys, copy)[key]
    return copy


@pytest.mark.parametrize(("year", "clips", "seconds"), [
    ("2021", 7_920, 10), ("2022", 118_800, 1), ("2023", 118_800, 1), ("2024", 135_730, 1), ("2025", 178_930, 1)])
def test_evaluation_sets(year, clips, seconds):
    rules = EDITIONS[year]
    assert rules.files == tuple(f"{index}.wav" for index in range(clips))
    assert rules.clip_seconds == seconds


@pytest.mark.parametrize("year", BY_YEAR)
def test_valid(golden, found, year):
    for systems in (1, 3):
        package = golden(year, systems=systems)
        assert found(package.members, package.rules) == []


@pytest.mark.parametrize("year", BY_YEAR)
def test_every_field_that_the_organisers_ask_for(golden, year):
    package = golden(year)
    meta = yaml.safe_load(package.members[package.meta])
    for block, key in required(year):
        place = f"{block}.{key}".lstrip(".").replace(".0.", "[0].")
        [finding] = check_meta.check(without(meta, block, key), "x", package.label, package.rules.labels, package.rules)
        assert (finding.level, finding.where, finding.found) == ("error", place, "no such field")


@pytest.mark.parametrize(("year", "key", "value", "told"), [
    ("2022", "total_parameters", 128_000, None),
    ("2022", "total_parameters", 128_001, "128,001 parameters"),
    ("2022", "macs", 30_000_000, None),
    ("2022", "macs", 30_000_001, "30,000,001 multiply-accumulates"),
    ("2022", "macs", None, "null"),
    ("2023", "macs", 10**9, "1,000,000,000 multiply-accumulates"),
    ("2023", "total_parameters", 130_000, None),
    ("2023", "total_model_size", 128_000, None),
    ("2023", "total_model_size", 128_001, "128,001 bytes"),
    ("2023", "total_model_size", 45390.5, "45390.5"),
    ("2023", "memory_use", 1.5e6, None),
    ("2023", "memory_use", -1, "-1"),
    ("2024", "total_model_size", 131_072, "131,072 bytes"),
    ("2024", "total_model_size", 2_000, "2,000 bytes"),
    ("2024", "macs", 30_000_001, "30,000,001 multiply-accumulates"),
    ("2025", "macs", 30_000_000, None),
    ("2025", "total_model_size", 128_000, None),
])
def test_limits_and_counts(golden, found, year, key, value, told):
    package = golden(year)
    meta = yaml.safe_load(package.members[package.meta])
    meta["system"]["complexity"][key] = value
    findings = found(package.members | {package.meta: yaml.safe_dump(meta).encode()}, package.rules)
    assert [(finding.level, finding.where, finding.found) for finding in findings] == (
        [("error", f"system.complexity.{key}", told)] if told else [])


def test_every_split_has_an_output_of_its_own(golden, found):
    package = golden("2024")
    for split, name in zip((5, 10, 25, 50, 100), package.outputs, strict=True):
        members = {other: content for other, content in package.members.items() if other != name}
        assert [finding.found for finding in found(members, package.rules)] \
            == [f"no {package.label}.output.split_{split}.csv"]
        spoilt = package.members[name].replace(b"\tbus\tmetro", b"\tmetro\tmetro", 1)
        [finding] = found(package.members | {name: spoilt}, package.rules)
        assert (finding.file, finding.where) == (f"{package.label}.output.split_{split}.csv", "line 1")
    whole = f"task1/{package.label}/{package.label}.output.csv"
    [finding] = found(package.members | {whole: package.members[package.output]}, package.rules)
    assert finding.found == "an extra file"


def test_results_of_every_split(golden, found):
    package = golden("2024")
    meta = yaml.safe_load(package.members[package.meta])
    splits = meta["results"]["development_dataset"]
    splits["split_5"]["overall"]["logloss"] = 9.0
    splits["split_50"]["overall"]["logloss"] = None  # hides no finding about split_5
    splits["split_50"]["class_wise"]["beach"] = {"logloss": 1.0, "accuracy": 54.5}
    findings = found(package.members | {package.meta: yaml.safe_dump(meta).encode()}, package.rules)
    assert [(finding.level, finding.where) for finding in findings] == [
        ("warning", f"{RESULTS}.split_5.overall.logloss"), ("error", f"{RESULTS}.split_50.class_wise")]


# the files of 2022, 2023 and 2025 have the same names
ONE_OUTPUT = "DCASE 2022 Task 1 or DCASE 2023 Task 1 or DCASE 2025 Task 1"
NAMES = {"2021": "DCASE 2021 Task 1A", "2022": ONE_OUTPUT, "2023": ONE_OUTPUT, "2024": "DCASE 2024 Task 1",
         "2025": ONE_OUTPUT}


@pytest.mark.parametrize(("made_for", "wanted"), [
    (made_for, wanted) for made_for, name in NAMES.items() for wanted, other in NAMES.items() if name != other])
def test_a_package_of_another_edition_is_told_as_one(golden, found, made_for, wanted):
    package, rules = golden(made_for, systems=2), golden(wanted).rules
    [finding] = found(package.members, rules)
    assert finding.found == f"a package of {NAMES[made_for]}"
    assert rules.name in finding.expected
    assert f"--edition {'2022 or 2023 or 2025' if NAMES[made_for] == ONE_OUTPUT else made_for} " in finding.expected


def test_2022_and_2023_differ_in_a_few_fields(golden, found):
    package, rules = golden("2022"), golden("2023").rules
    assert [(finding.level, finding.where) for finding in found(package.members, rules)] == [
        ("error", "system.complexity.total_model_size"), ("error", "system.energy_consumption")]
    package, rules = golden("2023"), golden("2022").rules
    assert [(finding.level, finding.where) for finding in found(package.members, rules)] == [
        ("warning", "system.complexity.total_model_size"), ("warning", "system.energy_consumption")]


@pytest.mark.parametrize("year", ["2022", "2023", "2024", "2025"])
def test_a_folder_above_belongs_to_2021_only(golden, found, year):
    package = golden(year)
    findings = found({f"Kim_QTI_task1/{name}": content for name, content in package.members.items()}, package.rules)
    assert [(finding.level, finding.found) for finding in findings] == [
        ("error", "systems in the folder 'Kim_QTI_task1/task1'")]


# --- 2025: models for single devices

SPECIFIC, GENERAL = f"{RESULTS}.device_specific", f"{RESULTS}.general"


def changed(tree, path, value):
    """A copy of a tree with another value; ... removes the field."""
    copy = deepcopy(tree)
    *above, key = path.split(".")
    block = reduce(lambda node, part: node[part], above, copy)
    if value is ...:
        del block[key]
    else:
        block[key] = value
    return copy


BROKEN_META = {
    "operations over the limit": ("system.complexity.macs", 30_000_001, "error", "30,000,001 multiply-accumulates"),
    "size over the limit": ("system.complexity.total_model_size", 128_001, "error", "128,001 bytes"),
    "no inference code": ("system.inference_code", ..., "error", "no such field"),
    "inference code null": ("system.inference_code", None, "error", "null"),
    "the organisers' placeholder": ("system.inference_code", ["YOUR_GITHUB_URL"], "error", "'YOUR_GITHUB_URL'"),
    "no address": ("system.inference_code", "Kim_QTI_task1_inference", "error", "'Kim_QTI_task1_inference'"),
    "an address of this machine": ("system.inference_code", "file:///home/kim/code", "error", "'file:///home"),
    "a password in the address": ("system.inference_code", "https://kim:x@github.com/kim", "error", "'https://kim:x@"),
    "two addresses": ("system.inference_code", "https://a.test/b https://a.test/c", "error", "'https://a.test/b "),
    "the address of the example": ("system.inference_code", "https://example.org/x", "not_submittable",
                                   "'https://example.org/x', an address of the example"),
    "a host of the example": ("system.inference_code", "HTTPS://Code.Example.com:443/x", "not_submittable", "'HTTPS:"),
    "no device information": ("system.description.device_information", ..., "error", "no such field"),
    "device information as a list": ("system.description.device_information", ["a", "b"], "warning", "['a', "),
    "unknown sharing": ("system.description.model_weight_sharing", "not shared", "warning", "'not shared'"),
    "sharing in capitals": ("system.description.model_weight_sharing", "Fully shared", "warning", "'Fully shared'"),
    "sharing null": ("system.description.model_weight_sharing", None, "warning", "null"),
    "no model": ("system.description.num_models_at_inference", 0, "error", "0"),
    "half a model": ("system.description.num_models_at_inference", 6.5, "warning", "6.5"),
    "models in words": ("system.description.num_models_at_inference", "seven", "warning", "'seven'"),
    "a field of 2024": ("system.description.split_adaptations", None, "warning", "an unknown field"),
    "no general model": (GENERAL, ..., "error", "no such field"),
    "results as a number": (SPECIFIC, 57.9, "error", "57.9"),
    "no log loss, not even null": (f"{SPECIFIC}.class_wise.bus.logloss", ..., "error", "no such field"),
}


@pytest.mark.parametrize("name", BROKEN_META)
def test_broken_metadata_of_2025(golden, found, name):
    path, value, level, told = BROKEN_META[name]
    package = golden("2025")
    meta = changed(yaml.safe_load(package.members[package.meta]), path, value)
    [finding] = found(package.members | {package.meta: yaml.safe_dump(meta).encode()}, package.rules)
    assert (finding.level, finding.where) == (level, path)
    assert finding.found.startswith(told)


@pytest.mark.parametrize(("path", "value", "where", "told"), [
    (f"{SPECIFIC}.class_wise.tram", ..., f"{SPECIFIC}.class_wise", "no tram"),
    (f"{GENERAL}.device_wise.s6", ..., f"{GENERAL}.device_wise", "the devices a b c s1 s2 s3 s4 s5"),
    (f"{GENERAL}.device_wise.unknown", {"accuracy": 50.0, "logloss": None}, f"{GENERAL}.device_wise",
     "the devices a b c"),
])
def test_incomplete_results_of_2025_cannot_be_submitted(golden, found, path, value, where, told):
    package = golden("2025")
    meta = changed(yaml.safe_load(package.members[package.meta]), path, value)
    [finding] = found(package.members | {package.meta: yaml.safe_dump(meta).encode()}, package.rules)
    assert (finding.level, finding.where) == ("not_submittable", where)
    assert finding.found.startswith(told)


@pytest.mark.parametrize(("null", "level"), [
    ((SPECIFIC,), None), ((GENERAL,), None), ((SPECIFIC, GENERAL), "error"),
    (("system.description.device_information",), None), (("system.source_code",), None)])
def test_partial_results_of_2025(golden, found, null, level):
    package = golden("2025")
    meta = yaml.safe_load(package.members[package.meta])
    for path in null:
        meta = changed(meta, path, None)
    findings = found(package.members | {package.meta: yaml.safe_dump(meta).encode()}, package.rules)
    assert [(finding.level, finding.where, finding.found) for finding in findings] == (
        [(level, RESULTS, "no results")] if level else [])


def without_log_losses(node):
    """A copy of results without log losses."""
    if not isinstance(node, dict):
        return node
    return {key: None if key == "logloss" else without_log_losses(value) for key, value in node.items()}


@pytest.mark.parametrize("year", BY_YEAR)
def test_log_loss_may_be_null(golden, year):
    """Null is what was not computed; in 2021, when log loss decided, it is noted."""
    package = golden(year)
    meta = yaml.safe_load(package.members[package.meta])
    meta["results"] = without_log_losses(meta["results"])
    findings = check_meta.check(meta, "x", package.label, package.rules.labels, package.rules)
    assert [(finding.level, finding.where, finding.found) for finding in findings] == (
        [("warning", RESULTS, "null for overall.logloss, and 19 others")] if year == "2021" else [])


@pytest.mark.parametrize(("path", "value", "where", "told"), [
    (f"{SPECIFIC}.overall.accuracy", 55.0, f"{SPECIFIC}.overall.accuracy", "55"),
    (f"{GENERAL}.overall.accuracy", 55.0, f"{GENERAL}.overall.accuracy", "55"),
    (f"{GENERAL}.overall.logloss", 3.0, f"{GENERAL}.overall.logloss", "3"),
    (f"{SPECIFIC}.class_wise.bus.logloss", 36.5, f"{SPECIFIC}.class_wise.bus.logloss", "36.5"),
])
def test_results_of_2025_that_cannot_be_true_together(golden, found, path, value, where, told):
    package = golden("2025")
    meta = yaml.safe_load(package.members[package.meta])
    for block in (SPECIFIC, GENERAL):  # a log loss that is missing hides nothing else
        meta = changed(meta, f"{block}.class_wise.tram.logloss", None if path.endswith("accuracy") else 1.9)
    meta = changed(meta, path, value)
    [finding] = found(package.members | {package.meta: yaml.safe_dump(meta).encode()}, package.rules)
    assert (finding.level, finding.where, finding.found) == ("warning", where, told)

