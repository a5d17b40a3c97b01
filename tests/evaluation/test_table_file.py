"""Table files: the shipped ones hold what is published, and what is wrong with one is named."""
import numpy as np
import pytest
import yaml

from evaluation.tables.table_file import SYSTEMS, read_table
from task1a.errors import InputError

# of FACTS: accuracy by device a b c s1 ... s6, overall, deviation
TYPED = {
    "bcresnet_asc_1": ([73.1, 61.2, 65.3, 58.2, 57.3, 66.2, 51.5, 51.5, 46.3], 58.9, 0.8, None),
    "bcresnet_asc_1_resnorm": ([76.4, 65.1, 68.3, 66.0, 62.2, 69.7, 63.0, 63.0, 58.3], 65.8, 0.7, 6),
    "bcresnet_asc_1_resnorm_noshortcut": ([68.2, 62.1, 58.6, 64.2, 65.3, 66.3, 65.1, 63.8, 61.3], 63.9, 0.7, None),
    "bcresnet_asc_8_resnorm": ([81.3, 74.4, 74.2, 75.6, 73.1, 78.6, 73.0, 74.0, 72.7], 75.2, 0.4, 6),
    "bcresnet_asc_8_resnorm_noshortcut": ([78.3, 73.5, 69.1, 73.8, 72.9, 75.6, 72.2, 72.5, 71.0], 73.2, 0.3, None),
}


def test_shipped_tables_hold_the_published_figures():
    rows = {row.system: row for row in read_table("table3").rows}
    assert len(rows) == 9
    for system, (devices, overall, deviation, seeds) in TYPED.items():
        published = rows[system].published
        assert list(published.devices) == ["a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6"]
        assert list(published.devices.values()) == devices
        assert (published.overall, published.deviation, published.seeds) == (overall, deviation, seeds)
        assert published.parameters == ("8.1k" if "asc_1" in system else "315k")
    table2, table4 = ([row.published for row in read_table(name).rows] for name in ("table2", "table4"))
    assert [(p.parameters, p.overall, p.deviation, p.seeds) for p in table2] == [
        ("899k", 67.8, None, None), ("317k", 68.6, 0.4, None), ("315k", 69.5, 0.3, None)]
    assert [(p.bits, p.size, p.overall, p.deviation, p.seeds) for p in table4] == [
        ("32 bit", None, 76.3, 0.8, 6), ("8/16 bit", None, 75.1, 0.9, 6), ("8/16 bit", "61.0 KB", 75.3, 0.8, 6)]


def test_published_devices_average_to_the_published_overall():
    for row in read_table("table3").rows:
        published = row.published
        assert np.mean(list(published.devices.values())) == pytest.approx(published.overall, abs=0.1), row.label


@pytest.mark.parametrize("name", ["table2", "table3", "table4"])
def test_rows_of_shipped_tables_are_shipped_systems(name):
    table = read_table(name)
    for row in table.rows:
        assert (table.systems / f"{row.system}.yaml").is_file(), row.system


def test_a_table_is_found_by_its_name_and_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "table3.yaml").write_text("{title: t, rows: [{system: a, label: b}]}", encoding="utf-8")
    monkeypatch.chdir(tmp_path / "own")
    shipped, own = read_table("table3"), read_table("table3.yaml")
    assert (shipped.systems, own.systems) == (SYSTEMS, tmp_path) and (own.name, own.title) == ("table3", "t")
    with pytest.raises(InputError, match="^own.yaml: no such table; give table2, table3, table4, or the path"):
        read_table("own.yaml")


@pytest.mark.parametrize(("tree", "message"), [
    ("rows: [", "not valid YAML"),
    ("- rows", "must hold the keys title and rows"),
    ({"title": "t"}, "rows: Field required"),
    ({"rows": [{"system": "a", "label": "a"}]}, "title: Field required"),
    ({"title": "t", "rows": []}, "rows: List should have at least 1 item"),
    ({"title": "t", "rows": [{"system": "a", "label": "a"}, {"system": "a", "label": "b"}]},
     "two rows have the system 'a'"),
    ({"title": "t", "rows": [{"system": "../a", "label": "a"}]}, "rows.1.system: String should match pattern"),
    ({"title": "t", "rows": [{"system": "a", "label": "a"}, {"label": "b"}]}, "rows.2.system: Field required"),
    ({"title": "t", "rows": [{"system": 3, "label": "a"}]}, "rows.1.system: Input should be a valid string"),
    ({"title": "t", "rows": [{"system": "a", "label": "a\nb"}]}, "rows.1.label: must be one line of text"),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"overal": 1}}]}, "published.overal: "),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"overall": "1"}}]}, "a valid number"),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"seeds": 0}}]}, "published.seeds: "),
    ({"title": "t", "rows": [{"system": "a", "label": "a", "published": {"devices": {"overall": 1}}}]}, "devices: the"),
    ({"title": "t", "rows": [{"system": "a", "label": "a"}], "name": "x"}, "and no others"),
])
def test_wrong_tables_are_named(tmp_path, tree, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_table(str(path))
    assert "\n" not in str(error.value) and "wrong.yaml" in str(error.value)
