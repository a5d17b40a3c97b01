from pathlib import Path

import pytest
import yaml

from submission import authors as authors_file
from submission import schema
from submission.rules import EDITIONS, TASK1_2022, TASK1_2023, TASK1_2024, TASK1A_2021
from task1a.errors import InputError

SUBMISSION = Path(authors_file.__file__).parent


@pytest.fixture
def written(tmp_path):
    """A function that writes an authors' file, as text or as its authors and the block system."""

    def write(content, **system):
        text = content if isinstance(content, str) else yaml.safe_dump({"authors": content, "system": system})
        path = tmp_path / "authors.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path, rules):
    """Lines of the error, without the file's name."""
    with pytest.raises(InputError) as raised:
        authors_file.read(path, rules)
    return [line.removeprefix(f"{path}, ") for line in str(raised.value).splitlines()]


@pytest.mark.parametrize(("lastname", "institute", "expected"), [
    ("Kim", "QTI", "Kim_QTI"),
    ("Martín-Morató", "TAU", "Martin-Morato_TAU"),
    ("van der Berg_Løvås", "A&B 2", "vanderBergLovas_AB2"),
    ("Strauß.", "-ÉTS-", "Strauss_ETS"),
])
def test_label_parts_are_plain(written, said, lastname, institute, expected):
    author = said.authors[0] | {"lastname": lastname}
    author["affiliation"] = author["affiliation"] | {"abbreviation": institute}
    people = authors_file.read(written([author, said.authors[0]]), TASK1A_2021)["submission.authors"]
    assert authors_file.team(people) == expected
    assert [person.get("corresponding") for person in people] == [True, None]
    assert TASK1A_2021.label_pattern.fullmatch(f"{expected}_task1a_4")


def test_every_problem_of_a_file_is_one_line(written):
    path = written("authors:\n"
                   "  - {lastname: NO, firstname: A, email: a.b.test, corresponding: true,\n"
                   "     affiliation: {abbreviation: X, institute: Y, location: Z}}\n"
                   "  - {lastname: B, firstname: A, email: a@b.test, corresponding: true}\n")
    assert sorted(line.partition(", expected")[0] for line in problems(path, TASK1A_2021)) == [
        "authors: found 2 corresponding authors",
        "authors[0].email: found 'a.b.test'",
        "authors[0].lastname: found False",
        "authors[1].affiliation: found no such field",
    ]


@pytest.mark.parametrize(("text", "told"), [
    ("authors: [", "not valid YAML"),
    ("[]", "found [], expected a block of fields"),
    ("", "authors: found null, expected a list"),
    ("authors: []", "authors: found [], expected at least one item"),
    ("authors: [{lastname: 王, firstname: A, email: a@b.test, affiliation: "
     "{abbreviation: X, institute: Y, department: null, location: Z}}]", "lastname: found '王', expected at least one"),
])
def test_unusable_files(written, text, told):
    assert told in problems(written(text), TASK1A_2021)[0]


def test_the_shipped_example_is_the_template_of_2021():
    assert (SUBMISSION / "authors.example.yaml").read_bytes().decode() == authors_file.template(TASK1A_2021)


@pytest.mark.parametrize("year", EDITIONS)
def test_the_template_is_complete_commented_and_read_back(written, year):
    rules = EDITIONS[year]
    text = authors_file.template(rules)
    path = written(text.replace("training: null", "training: 1").replace("inference: null", "inference: 1"))
    said = authors_file.read(path, rules)
    assert [person["lastname"] for person in said["submission.authors"]] == ["Lastname", "Secondname"]
    assert said["system.external_datasets"] == []
    lines = [line.strip() for line in text.splitlines()]
    for field, comment in schema.comments(schema.authors_file(int(year))).items():
        if comment and "external_datasets.*" not in field:
            first = next(number for number, line in enumerate(lines) if line.startswith(field.split(".")[-1] + ":"))
            assert lines[first - 1].startswith(f"# {comment}"), field


def test_every_value_is_taken_by_its_path(written, said):
    dataset = {"name": "AudioSet", "url": "https://a.test", "total_audio_length": 348000}
    path = written(said.authors, source_code="https://code.test", external_datasets=[dataset],
                   complexity={"memory_use": 0}, description={"external_data_usage": "pre-training"},
                   energy_consumption={"training": 0.4, "inference": 0.002, "baseline_inference": 0})
    assert authors_file.read(path, TASK1_2023) == {
        "submission.authors": said.authors, "system.description.external_data_usage": "pre-training",
        "system.complexity.memory_use": 0, "system.energy_consumption.training": 0.4,
        "system.energy_consumption.inference": 0.002, "system.energy_consumption.baseline_inference": 0,
        "system.external_datasets": [dataset], "system.source_code": "https://code.test"}
    # the same file serves an edition that does not ask for all of it
    assert set(authors_file.read(path, TASK1A_2021)) == {
        "submission.authors", "system.description.external_data_usage", "system.external_datasets",
        "system.source_code"}


@pytest.mark.parametrize("text", ["", "system:", "system: {description: }"])
def test_optional_fields_may_be_left_out(written, said, text):
    taken = authors_file.read(written(yaml.safe_dump({"authors": said.authors}) + text), TASK1_2024)
    assert taken.pop("submission.authors") == said.authors
    assert taken.pop("system.external_datasets") == []
    assert set(taken.values()) == {None}


@pytest.mark.parametrize(("system", "told"), [
    ({"energy": 1}, "system.energy: found an unknown field, expected only inference_code, description, complexity, "
                    "energy_consumption, external_datasets, source_code there"),
    ({"complexity": {"macs": 3}}, "system.complexity.macs: found an unknown field, expected only memory_use there"),
    ({"complexity": 3}, "system.complexity: found 3, expected a block of fields"),
    ({"complexity": {"memory_use": "much"}}, "system.complexity.memory_use: found 'much', expected a number"),
    ({"external_datasets": [{"name": "A", "url": "https://b.test"}]},
     "system.external_datasets[0].total_audio_length: found no such field"),
    ({"external_datasets": [{"name": "A", "url": "https://b.test", "total_audio_length": 1, "hours": 2}]},
     "system.external_datasets[0].hours: found an unknown field"),
    ({"external_datasets": [{"name": "A", "url": "data:,x", "total_audio_length": 1}]},
     "system.external_datasets[0].url: found 'data:,x', expected an address that starts with https://"),
    ({"source_code": "javascript:alert(1)"}, "system.source_code: found 'javascript:alert(1)', expected an address"),
    ({"source_code": "code.test/x"}, "system.source_code: found 'code.test/x', expected an address"),
])
def test_a_mistake_is_one_line_with_its_place(written, said, system, told):
    [line] = problems(written(said.authors, **system), TASK1_2022)
    assert line.startswith(told)


def test_an_unknown_field_of_an_author(written, said):
    [line] = problems(written([said.authors[1], said.authors[0] | {"phone": 1}]), TASK1A_2021)
    assert line.startswith("authors[1].phone: found an unknown field")


@pytest.mark.parametrize("given", [False, True])
def test_required_values_are_asked_for_by_their_place(written, said, given):
    path = written(said.authors) if given else None
    lines = problems(path, TASK1_2023)
    for line, key in zip(lines, ("training", "inference", "baseline_inference"), strict=True):
        assert f"system.energy_consumption.{key}: found null, expected a number" in line
        assert given or "python -m submission.package --init" in line
