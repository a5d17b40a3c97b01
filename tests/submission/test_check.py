"""The last look before upload: what it says of hand-written runs, and when it lets them pass."""
from dataclasses import replace

import pytest

from submission import check
from task1a.errors import run_command


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_run):
    """A full-size run of 32,220 B."""
    return make_run(tmp_path_factory.mktemp("check") / "bcresnet_asc_1" / "seed0")


@pytest.fixture(scope="module")
def pdf(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.pdf"
    path.write_bytes(b"%PDF-1.7\n%%EOF\n")
    return path


def said(capsys, *arguments) -> tuple[int, str]:
    """Exit status, and what was printed."""
    status = run_command(lambda: check.main([str(argument) for argument in arguments]))
    printed = capsys.readouterr()
    return status, printed.out + printed.err


def test_what_is_complete_is_ready(run, authors, pdf, capsys):
    status, text = said(capsys, run, "--authors", authors, "--report", pdf)
    assert status == 0 and text.endswith("valid, and submittable to DCASE 2021 Task 1A\nREADY TO UPLOAD\n"), text
    assert "32,220 of 131,072 bytes: within, 98,852 to spare" in text
    assert "the limit is of dcase2021" in text
    words = [line.split() for line in text.splitlines()]
    assert "overall real seen unseen a b c s1 s2 s3 s4 s5 s6".split() in words
    assert "accuracy 55.0 59.0 - - 60.0 59.0 58.0 57.0 56.0 55.0 54.0 53.0 52.0".split() in words
    assert "log loss 1.000 0.500 - - 1.000 0.500 0.333 0.250 0.200 0.167 0.143 0.125 0.111".split() in words


def test_it_fits_one_screen(tmp_path, make_run, authors, pdf, capsys):
    runs = [make_run(tmp_path / f"seed{seed}", seed=seed) for seed in range(4)]
    status, text = said(capsys, *runs, "--authors", authors, "--report", pdf)
    assert status == 0 and text.count("system ") == 4 and len(text.splitlines()) <= 50


def test_what_is_missing_is_named(run, capsys):
    status, text = said(capsys, run)
    assert status == 1
    assert "missing: the authors: python -m submission.package --init" in text
    assert "missing: the technical report" in text
    assert text.endswith("not ready to upload\n")


def test_the_report_alone_is_missing(run, authors, capsys):
    status, text = said(capsys, run, "--authors", authors)
    assert status == 1 and "missing: the authors" not in text and "missing: the technical report" in text


@pytest.mark.parametrize("size, line", [
    (131_072, "131,072 of 131,072 bytes: within, 0 to spare; above 128,000"),
    (131_073, "131,073 of 131,072 bytes: OVER THE LIMIT by 1"),
])
def test_the_limit_to_the_byte(tmp_path, make_run, authors, pdf, capsys, size, line):
    status, text = said(capsys, make_run(tmp_path / "seed0", size=size), "--authors", authors, "--report", pdf)
    assert line in text
    assert status == (size > 131_072)


def test_demo_data_is_called_so(tmp_path, make_run, authors, pdf, capsys):
    status, text = said(capsys, make_run(tmp_path / "seed0", demo=True), "--authors", authors, "--report", pdf)
    assert status == 1 and "demo data: figures say nothing about real recordings" in text
    assert "a system trained on demo data" in text


def test_a_package_that_is_not_what_the_run_predicted(tmp_path, make_run, authors, pdf, capsys, monkeypatch):
    """The comparison with the run is part of the look: here a packager that changes a result on the way."""
    run = make_run(tmp_path / "seed0")
    honest = check.package

    def changed(*arguments):
        made = honest(*arguments)
        record = run / "evaluation.json"
        record.write_text(record.read_text().replace('"accuracy": 55.0', '"accuracy": 56.0'))
        return made

    monkeypatch.setattr(check, "package", changed)
    status, text = said(capsys, run, "--authors", authors, "--report", pdf)
    assert status == 1 and "results.development_dataset.overall.accuracy: found 55.0, expected 56" in text


def test_2025_shows_both_results(tmp_path, make_device_run, authors_2025, pdf, rendered, monkeypatch, capsys):
    monkeypatch.setitem(check.EDITIONS, "2025", replace(check.EDITIONS["2025"], clips=1))
    run = make_device_run(tmp_path, clips=1)
    arguments = ["--authors", authors_2025, "--report", pdf, "--edition", "2025"]
    status, text = said(capsys, run, *arguments)
    assert status == 0 and text.endswith("valid, and submittable to DCASE 2025 Task 1\nREADY TO UPLOAD\n"), text
    assert "25,390 of 128,000 bytes: within" in text
    assert "19,562,940 of 30,000,000 multiply-accumulates: within" in text
    lines = [line.strip() for line in text.splitlines()]
    specific = next(number for number, line in enumerate(lines) if line.startswith("device_specific  2,968 clips"))
    assert lines[specific + 1].split()[:4] == ["overall", "real", "seen", "unseen"]
    assert lines[specific + 2].split()[:3] == ["accuracy", "55.0", "59.0"]
    assert lines[specific + 4].startswith("general          2,968 clips")
    assert lines[specific + 6].split()[:3] == ["accuracy", "50.0", "59.0"]
    assert "_task1_inference: found a stub" in text
    status, text = said(capsys, tmp_path / "asc" / "seed0", *arguments)
    assert status == 0 and "device_specific  none\n" in text and text.count("accuracy ") == 1


def test_2026_has_no_scenes(capsys):
    status, text = said(capsys, "run", "--edition", "2026")
    assert status == 2 and "DCASE 2026 has no scene classification task" in text and len(text.splitlines()) == 1


def test_nothing_is_kept(tmp_path, run, authors, pdf, capsys, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = sorted(run.rglob("*"))
    said(capsys, run, "--authors", authors, "--report", pdf)
    assert sorted(run.rglob("*")) == before and not list(tmp_path.iterdir())


def test_what_cannot_be_looked_at_is_one_line(tmp_path, capsys):
    status, text = said(capsys, tmp_path / "nowhere")
    assert status == 2 and text.startswith("error: ") and len(text.splitlines()) == 1
