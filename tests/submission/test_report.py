import json
import re
from itertools import takewhile

import pytest
import yaml

from submission import metadata as meta_yaml
from submission import report
from submission.rules import TASK1_2024, TASK1_2025, TASK1A_2021


def draft(*runs, rules=TASK1A_2021, authors=()):
    records = [meta_yaml.read_records(run) for run in runs]
    said = {"submission.authors": list(authors), "system.complexity.memory_use": None}
    return report.draft(meta_yaml.build("A_B_task1a_1", said, records, rules), records, rules)


def tables(text):
    """Every table as its header and its rows, by a reader of Markdown of our own."""
    found, lines = [], text.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("|-"):
            cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in lines[number - 1:]]
            rows = takewhile(lambda cells: len(cells) > 1, cells[2:])
            found.append((cells[0], list(rows)))
    return found


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_results_are_those_of_the_run(tmp_path, make_run, said):
    overall, devices, groups, classes = tables(section(draft(make_run(tmp_path / "run", clips=1)), "3. Results"))
    assert overall[1] == [["overall", "55.0", "1.000"]]
    assert devices[1] == [[name, f"{60 - i:.1f}", f"{1 / (i + 1):.3f}"] for i, name in enumerate(said.devices)]
    assert groups[1] == [["real", "59.0", "0.500"], ["seen", "–", "–"], ["unseen", "–", "–"]]
    assert classes[1] == [[name, f"{50.5 + i:.1f}", f"{1 + i / 8:.3f}"] for i, name in enumerate(said.labels)]


def test_complexity_lists_every_tensor_and_adds_them_up(tmp_path, make_run):
    text = section(draft(make_run(tmp_path / "run", clips=1)), "4. Complexity")
    [(header, rows)] = tables(text)
    assert header == ["tensor", "shape", "type", "values", "non-zero", "bytes", "with zeros"]
    assert rows == [["stem.weight", "20 × 1 × 10 × 100", "int8", "20,000", "19,500", "19,500", "20,000"],
                    ["norm.weight", "2695", "float16", "2,695", "2,500", "12,720", "5,390"],
                    ["together", "", "", "22,695", "22,000", "32,220", "25,390"]]
    assert "The limit is 131,072 bytes; the system has 32,220." in text
    assert "- `model_size`: 31.4648\n" in text


def test_the_configuration_is_in_it_as_it_was(tmp_path, make_run, said):
    text = draft(make_run(tmp_path / "run", clips=1))
    written = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    for name in ("features", "training", "compression", "submission"):
        assert written[name].items() >= said.config[name].items(), name
    assert ["torch", "2.11.0"] in tables(section(text, "5. Reproduction"))[0][1]
    assert "None" not in text.replace("None: the trained model", "")


@pytest.mark.parametrize(("section_key", "changes", "told", "not_told"), [
    ("training", {}, ["alpha 0.3", "masks of up to 40 mel bins, 2 a clip", "10 % of the training split"],
     ["divided by"]),
    ("training", {"mixup_alpha": 0, "frequency_masks": 0, "validation_fraction": 0, "calibrate": True},
     ["divided by the temperature of least log loss on the part"], ["Mixup", "along frequency", "are held out"]),
    ("training", {"validation_fraction": 0, "calibrate": True, "pilot_fraction": 0.25},
     ["divided by the temperature of least log loss on 25 % of the training split, by location, for a pilot"],
     ["are held out"]),
    ("training", {"calibrate": False, "pilot_fraction": 0.25}, [], ["divided by"]),
    ("compression", {}, ["None: the trained model is the system"], ["pruned"]),
    ("compression", {"enabled": True}, ["89 % of the convolution weights are pruned", "at once",
                                        "from the model before compression at temperature 2"], ["no teacher"]),
    ("compression", {"enabled": True, "ratio": 0, "teachers": []}, ["It has no teacher"], ["pruned", "distillation"]),
    ("compression", {"enabled": True, "target_bytes": 65536, "scope": "layer", "schedule": "gradual",
                     "teachers": ["vanilla", "a_vanilla/seed1"]},
     ["at most 65,536 bytes", "the smallest of every layer, a little before every epoch",
      "from the model before compression, a_vanilla/seed1"], ["89 %"]),
    ("model", {"front_end": "pcen"}, ["PCEN"], ["is added before the natural logarithm"]),
    ("model", {"front_end": "freqnorm", "tau": 8}, ["Each mel bin is normalised", "`tau` 8"], ["width"]),
])
def test_the_recipe_is_told_from_the_configuration(tmp_path, make_run, said, section_key, changes, told, not_told):
    config = said.config | {section_key: said.config[section_key] | changes}
    text = section(draft(make_run(tmp_path / "run", clips=1, config=config)), "2. System")
    assert [words for words in told if words not in text] == []
    assert [words for words in not_told if words in text] == []


def test_what_only_the_authors_know_is_marked(tmp_path, make_run, said):
    text = draft(make_run(tmp_path / "run", clips=1), authors=said.authors)
    for what in ("title", "abstract", "references"):
        assert f"**[TO BE WRITTEN: {what}]**" in text
    assert "- Jörg Müller-Łoś, Yes: #1, j.mueller@uni-graz.test\n" in text


@pytest.mark.parametrize("demo", [False, True])
def test_demo_data_is_called_demo_data(tmp_path, make_run, demo):
    text = draft(make_run(tmp_path / "run", clips=1, demo=demo))
    assert ("demo data" in section(text, "3. Results")) == demo
    assert ("**Demo data:" in text) == demo


def test_an_ensemble_is_told_by_its_members(tmp_path, make_run, said):
    member = said.config | {"system": "a", "training": said.config["training"] | {"epochs": 77}}
    make_run(tmp_path / "a" / "seed0", clips=1, config=member)
    both = said.config | {"system": "both", "ensemble": ["a", "b"]}
    run = make_run(tmp_path / "both" / "seed0", clips=1, config=both)
    (run / "environment.json").unlink()
    text = draft(run)
    system = section(text, "2. System")
    assert "divided by" not in system
    assert "The probabilities of 2 networks are averaged." in system
    assert "77 epochs" in system.split("### b")[0] and "60 epochs" not in system
    assert "TO BE WRITTEN: what its own run says of it" in system.split("### b")[1]
    first, second = tables(section(text, "4. Complexity"))
    assert [row[0] for row in first[1]] == ["stem.weight", "together"]
    assert [row[0] for row in second[1]] == ["norm.weight", "together"]
    assert tables(section(text, "5. Reproduction")) == []


def test_every_split_has_its_results_and_the_largest_its_tensors(tmp_path, make_run):
    runs = [make_run(tmp_path / str(number), clips=1) for number in range(5)]
    for number, run in enumerate(runs):
        record = json.loads((run / "evaluation.json").read_text())
        record["overall"]["accuracy"] = 40.0 + number
        (run / "evaluation.json").write_text(json.dumps(record))
    record = json.loads((runs[2] / "complexity.json").read_text())
    record["policies"]["dcase2021"]["by_bits"]["8"]["parameters"] = 20001
    (runs[2] / "complexity.json").write_text(json.dumps(record))
    text = draft(*runs, rules=TASK1_2024)
    results = section(text, "3. Results")
    assert [rows[0][1] for _, rows in tables(results)[::4]] == ["40.0", "41.0", "42.0", "43.0", "44.0"]
    assert "### Trained on 5 % of the training data\n" in results
    complexity = section(text, "4. Complexity")
    assert "(Trained on 25 % of the training data)" in complexity
    assert "The limit is 128,000 bytes; the system has 25,391." in complexity
    assert "The limit is 30,000,000 multiply-accumulates; the system has 19,562,940." in complexity


def test_models_for_single_devices_and_the_general_model(tmp_path, make_device_run):
    text = draft(make_device_run(tmp_path), rules=TASK1_2025)
    system = section(text, "2. System")
    assert "Each of the devices a, s1 has a model of its own" in system
    general, specific = system.split("### Device-specific models")
    assert "60 epochs" in general and "60 epochs" not in specific and "5 epochs" in specific
    results = section(text, "3. Results")
    assert [rows[0][1] for _, rows in tables(results)[::4]] == ["55.0", "50.0"]
    assert results.index("### With a model for each known device") < results.index("### With the general model")
    assert section(text, "4. Complexity").lstrip().startswith(
        "Every stored tensor of the largest of the models; *bytes* counts")
    assert len(tables(section(text, "4. Complexity"))) == 1
    configs = [yaml.safe_load(part.split("```")[0]) for part in text.split("```yaml\n")[1:]]
    assert [config["system"] for config in configs] == ["asc_devices", "asc"]


def test_a_general_model_alone_is_an_ordinary_system(tmp_path, make_run):
    text = draft(make_run(tmp_path / "run", clips=1), rules=TASK1_2025)
    assert "device-specific" not in text.lower()
    assert len(tables(section(text, "3. Results"))) == 4
    assert section(text, "4. Complexity").lstrip().startswith("Every stored tensor; *bytes* counts")


MARKUP = ("<script>x</script>", "x\n\n# y", "[x](javascript:y)", "![x](y)", "`x`", "```\n<b>", "**x**", "_x_", "x|y",
          "$x$", "\u202ex", "\x1b[2J", "&lt;", "1. x", "- x", "> x", "~~x~~", "x\\", "<!--")


def hostile_draft(make_run, root, names):
    """A draft of a system whose authors, labels, devices, tensors and packages have these names."""
    run = make_run(root, clips=1, labels=names, devices=names)
    for file, changes in {
        "complexity": {"tensors": [{"model": 0, "name": name, "shape": [1], "dtype": name, "bits": 8, "values": 1,
                                    "non_zero": 1, "bytes": 1} for name in names], "models": [{"file": names[5]}]},
        "environment": {"packages": {name: name for name in names}, "platform": names[1]},
        "data": {"name": names[0], "by_device": {"train": {name: 1 for name in names}}},
    }.items():
        record = json.loads((run / f"{file}.json").read_text())
        (run / f"{file}.json").write_text(json.dumps(record | changes))
    return draft(run, authors=[{"firstname": name, "lastname": name, "email": name, "affiliation": {"institute": name}}
                               for name in names])


def test_markup_stays_text(tmp_path, make_run):
    """The lines are those of harmless names, and no mark is left that is not escaped."""
    text = hostile_draft(make_run, tmp_path / "hostile", MARKUP)
    plain = hostile_draft(make_run, tmp_path / "plain", [f"name{chr(97 + index)}" for index in range(len(MARKUP))])
    lines, expected = text.splitlines()[1:], plain.splitlines()[1:]
    assert len(lines) == len(expected)
    for line, right in zip(lines, expected, strict=True):
        bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", line)  # without what a backslash makes text
        if "name" in right:
            assert not re.search(r"[<>$~\u202e\x1b]|^- (- |1\.)|\b_|_\b|]\(", bare), line
            assert bare.count("|") == right.count("|"), line
            assert bare.count("*") == right.count("*"), line
        else:
            assert line == right
    assert all(text.count(shown) >= 5 for shown in (
        "x # y", r"\[x\](javascript:y)", "&lt;b&gt;", r"x\|y", r"\_x\_", r"\\u202ex", r"\\x1b\[2J", "&amp;lt;",
        r"1\. x", r"\- x"))


def test_a_setting_stays_in_its_block(tmp_path, make_run, said):
    name = "x\n\n```\n# y\n````\n"
    config = said.config | {"submission": said.config["submission"] | {"name": name}}
    text = draft(make_run(tmp_path / "run", clips=1, config=config))
    fence, body = re.search(r"\n(`+)yaml\n(.*?)\n\1\n", text, re.DOTALL).groups()
    assert yaml.safe_load(body)["submission"]["name"] == name
    assert len(fence) == 5


def test_a_draft_is_known_until_it_is_edited(tmp_path, make_run):
    path = tmp_path / "draft.md"
    path.write_text(draft(make_run(tmp_path / "run", clips=1)), encoding="utf-8")
    assert report.is_untouched(path)
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert not report.is_untouched(path)
    path.write_bytes(b"\xff")
    assert not report.is_untouched(path)
