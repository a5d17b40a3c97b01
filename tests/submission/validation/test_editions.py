"""Packages of 2021 to 2024, each by its own rules and by those of the others."""
from copy import deepcopy
from functools import reduce

import pytest
import yaml

from submission import check_meta

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


@pytest.mark.parametrize("year", BY_YEAR)
def test_valid(golden, found, year):
    for systems in (1, 4):
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
        spoilt = package.members[name].replace(b"\tbus\tmetro", b"\tmetro\tbus", 1)
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
        ("error", f"{RESULTS}.split_50.overall.logloss"), ("warning", f"{RESULTS}.split_5.overall.logloss"),
        ("error", f"{RESULTS}.split_50.class_wise")]


NAMES = {"2021": "DCASE 2021 Task 1A", "2022": "DCASE 2022 Task 1", "2024": "DCASE 2024 Task 1"}


@pytest.mark.parametrize(("made_for", "wanted"), [
    ("2021", "2022"), ("2021", "2023"), ("2021", "2024"), ("2022", "2021"), ("2023", "2021"), ("2024", "2021"),
    ("2024", "2022"), ("2022", "2024"), ("2023", "2024"), ("2024", "2023")])
def test_a_package_of_another_edition_is_told_as_one(golden, found, made_for, wanted):
    package, rules = golden(made_for, systems=2), golden(wanted).rules
    [finding] = found(package.members, rules)
    # the files of 2022 and 2023 have the same names
    assert finding.found == f"a package of {NAMES['2022' if made_for == '2023' else made_for]}"
    assert rules.name in finding.expected


def test_2022_and_2023_differ_in_a_few_fields(golden, found):
    package, rules = golden("2022"), golden("2023").rules
    assert [(finding.level, finding.where) for finding in found(package.members, rules)] == [
        ("error", "system.complexity.total_model_size"), ("error", "system.energy_consumption")]
    package, rules = golden("2023"), golden("2022").rules
    assert [(finding.level, finding.where) for finding in found(package.members, rules)] == [
        ("warning", "system.complexity.total_model_size"), ("warning", "system.energy_consumption")]


@pytest.mark.parametrize("year", ["2022", "2023", "2024"])
def test_a_folder_above_belongs_to_2021_only(golden, found, year):
    package = golden(year)
    findings = found({f"Kim_QTI_task1/{name}": content for name, content in package.members.items()}, package.rules)
    assert {finding.found for finding in findings} == {"a file that does not belong here"}
    assert len(findings) == len(package.members)
