from pathlib import Path

import pytest
import yaml

from submission import authors as authors_file
from submission.rules import EDITIONS, TASK1_2022, TASK1_2023, TASK1_2024, TASK1A_2021
from task1a.errors import InputError

SUBMISSION = Path(authors_file.__file__).parent


def written(path, authors, **system):
    path.write_text(yaml.safe_dump({"authors": authors, "system": system}), encoding="utf-8")
    return path


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
    people = authors_file.read(path, TASK1A_2021)["submission.authors"]
    assert authors_file.team(people) == expected
    assert [person.get("corresponding") for person in people] == [True, None]
    assert TASK1A_2021.label_pattern.fullmatch(f"{expected}_task1a_4")


def test_authors_file_problems_are_told_line_by_line(tmp_path):
    path = tmp_path / "authors.yaml"
    path.write_text("authors:\n"
                    "  - {lastname: NO, firstname: A, email: a.b.test, corresponding: true,\n"
                    "     affiliation: {abbreviation: X, institute: Y, location: Z}}\n"
                    "  - {lastname: B, firstname: A, email: a@b.test, corresponding: true}\n", encoding="utf-8")
    with pytest.raises(InputError) as problems:
        authors_file.read(path, TASK1A_2021)
    assert sorted(line.removeprefix(f"{path}, ") for line in str(problems.value).splitlines()) == [
        "authors: found 2 corresponding authors, expected exactly one",
        "authors[0].affiliation.department: found no such field, expected text, or null",
        "authors[0].email: found 'a.b.test', expected an e-mail address",
        "authors[0].lastname: found False, expected text",
        "authors[1].affiliation: found no such field, expected a block of fields",
    ]


@pytest.mark.parametrize(("text", "expected"), [
    ("authors: [", "not valid YAML"),
    ("[]", "authors: found null, expected a list"),
    ("authors: []", "expected a list with at least one item"),
    ("authors: [{lastname: 王, firstname: A, email: a@b.test, affiliation: "
     "{abbreviation: X, institute: Y, department: null, location: Z}}]", "lastname: found 王, expected at least one"),
])
def test_unusable_authors_files(tmp_path, text, expected):
    path = tmp_path / "authors.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="^[^\n]*" + expected.replace("[", r"\[")):
        authors_file.read(path, TASK1A_2021)




def test_the_shipped_example_is_the_template_of_2021():
    assert (SUBMISSION / "authors.example.yaml").read_bytes().decode() == authors_file.template(TASK1A_2021)


@pytest.mark.parametrize("year", EDITIONS)
def test_the_template_is_complete_commented_and_read_back(tmp_path, year):
    rules, path = EDITIONS[year], tmp_path / "authors.yaml"
    text = authors_file.template(rules).replace("training: null", "training: 1").replace("inference: null",
                                                                                        "inference: 1")
    path.write_text(text, encoding="utf-8")
    said = authors_file.read(path, rules)
    assert [person["lastname"] for person in said["submission.authors"]] == ["Lastname", "Secondname"]
    assert said["system.external_datasets"] == []
    for field in rules.fields:
        if field.of_authors and "external_datasets.*" not in field.path and field.comment:
            line = next(number for number, line in enumerate(text.splitlines())
                        if line.strip().startswith(field.path.rsplit(".", 1)[-1] + ":"))
            assert text.splitlines()[line - 1].strip().startswith(f"# {field.comment}"), field.path


def test_everything_the_authors_say_is_taken_by_its_path(tmp_path, said):
    dataset = {"name": "AudioSet", "url": "https://a.test", "total_audio_length": 348000}
    path = written(tmp_path / "authors.yaml", said.authors, source_code="https://code.test",
                   external_datasets=[dataset], complexity={"memory_use": 0},
                   description={"external_data_usage": "pre-training"},
                   energy_consumption={"training": 0.4, "inference": 0.002, "baseline_inference": 0})
    taken = authors_file.read(path, TASK1_2023)
    assert taken == {
        "submission.authors": said.authors, "system.description.external_data_usage": "pre-training",
        "system.complexity.memory_use": 0, "system.energy_consumption.training": 0.4,
        "system.energy_consumption.inference": 0.002, "system.energy_consumption.baseline_inference": 0,
        "system.external_datasets": [dataset], "system.source_code": "https://code.test"}
    # the same file serves an edition that does not ask for all of it
    assert set(authors_file.read(path, TASK1A_2021)) == {
        "submission.authors", "system.description.external_data_usage", "system.external_datasets",
        "system.source_code"}


@pytest.mark.parametrize("text", ["", "system:", "system: {description: }"])
def test_what_may_be_left_out_may_be_left_out(tmp_path, said, text):
    path = tmp_path / "authors.yaml"
    path.write_text(yaml.safe_dump({"authors": said.authors}) + text, encoding="utf-8")
    taken = authors_file.read(path, TASK1_2024)
    assert taken.pop("submission.authors") == said.authors
    assert taken.pop("system.external_datasets") == []
    assert set(taken.values()) == {None}


@pytest.mark.parametrize(("system", "told"), [
    ({"energy": 1}, "system.energy: found a field that is not asked for, expected only complexity, description, "
                    "energy_consumption, external_datasets, source_code there"),
    ({"complexity": {"macs": 3}}, "system.complexity.macs: found a field that is not asked for, expected only "
                                  "memory_use there"),
    ({"complexity": 3}, "system.complexity: found 3, expected a block of fields"),
    ({"complexity": {"memory_use": "much"}}, "system.complexity.memory_use: found 'much', expected a number"),
    ({"external_datasets": [{"name": "A", "url": "b"}]},
     "system.external_datasets[0].total_audio_length: found no such field"),
    ({"external_datasets": [{"name": "A", "url": "b", "total_audio_length": 1, "hours": 2}]},
     "system.external_datasets[0].hours: found a field that is not asked for"),
])
def test_each_mistake_is_told_in_one_line_with_its_place(tmp_path, said, system, told):
    path = written(tmp_path / "authors.yaml", said.authors, **system)
    with pytest.raises(InputError) as problem:
        authors_file.read(path, TASK1_2022)
    [line] = str(problem.value).splitlines()
    assert line.startswith(f"{path}, {told}")


def test_an_unknown_field_of_an_author_is_told(tmp_path, said):
    path = written(tmp_path / "authors.yaml", [said.authors[1], said.authors[0] | {"phone": 1}])
    with pytest.raises(InputError, match=r"authors\[1\]\.phone: found a field that is not asked for"):
        authors_file.read(path, TASK1A_2021)


@pytest.mark.parametrize("given", [False, True])
def test_what_only_the_authors_can_know_is_asked_for_by_its_place(tmp_path, said, given):
    path = written(tmp_path / "authors.yaml", said.authors) if given else None
    with pytest.raises(InputError) as problems:
        authors_file.read(path, TASK1_2023)
    lines = str(problems.value).splitlines()
    assert [line.split(", system")[1] for line in lines] == [
        f".energy_consumption.{key}: found null, expected a number, not below 0"
        for key in ("training", "inference", "baseline_inference")]
    assert all(str(path) in line if given else "python -m submission.package --init" in line for line in lines)
