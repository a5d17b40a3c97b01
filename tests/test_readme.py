"""Every command of the README and of the pages it links runs, in the order of reading, on small data."""
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = list(dict.fromkeys(re.findall(r"\]\((docs/[\w-]+\.md)", README)))
TEXT = "\n".join([README, *((REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES)])
COMMANDS = re.sub(r"\\\n *", "", "".join(re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL))).splitlines()
CONSTRAINTS = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
QUICK = {"data": {"demo_clip_seconds": 1.0, "workers": 1}, "model": {"tau": 0.4},
         "features": {"n_mels": 64, "n_fft": 1024, "window": 1024, "hop": 960, "clip_seconds": 1.0},
         "training": {"epochs": 2, "warmup_epochs": 1, "batch_size": 64}, "compression": {"epochs": 1}}
PYTHON = {"python": [], "task1a": ["-m", "task1a"], "torchrun": ["-m", "torch.distributed.run"]}
SMALL_DEMO = """
DemoSize.__init__.__defaults__ = tuple(vars(DemoSize(
    train_locations=4, clips_per_location=1, parallel_every=2, test_locations=1, evaluation_locations=1)).values())
"""
FALLS_SHORT = ("submission.validate", "submission.check")  # demo data cannot be submitted, and they say so


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, toy_data) -> Path:
    """The repository as a newcomer has it, with a quick demo and with toy data in the place of the TAU sets."""
    folder = tmp_path_factory.mktemp("checkout")
    # copies, for a link leads back to the full-size systems
    shutil.copy(REPOSITORY / "task1a.py", folder)
    for name in ("task1a", "evaluation", "submission", "benchmarks", "system_configs"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "task1a" / "data" / "demo.py").open("a", encoding="utf-8") as source:
        source.write(SMALL_DEMO)
    for path in (folder / "system_configs").glob("*.yaml"):
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        for section, settings in QUICK.items():
            if section != "model" or path.stem != "cp_resnet_64":  # which has a width
                tree[section] = {**tree.get(section, {}), **settings}
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    named = dict.fromkeys(re.findall(r"(?:--data-root|--eval-root) (TAU\S+)", TEXT))
    for name, root in zip(named, toy_data, strict=True):
        (folder / name).symlink_to(root)
    (folder / "FOLDER").mkdir()
    weights = {"weight": torch.ones(2, 2)}
    torch.save({"student": weights, "teacher": weights, "epoch": 3}, folder / "last.ckpt")
    return folder


def test_the_two_commands_stand_there_as_promised():
    assert COMMANDS[0] == "pip install -c constraints.txt -e . && python task1a.py --stage all"
    assert COMMANDS[1] == "pip install -c constraints.txt -e '.[test]' && pytest"


def test_every_page_is_linked():
    assert set(PAGES) == {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")}


def test_the_constraints_hold_every_requirement_of_the_project():
    required = re.findall(r'"([\w-]+)>=', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    pinned = re.findall(r"^([\w-]+)==", CONSTRAINTS, re.MULTILINE)
    assert {name.replace("_", "-") for name in required} <= set(pinned) and "torch==2.13.0" in CONSTRAINTS


@pytest.mark.skipif(os.name == "nt", reason="links to the repository")
@pytest.mark.parametrize("together", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["python", "torchrun"])
def test_every_command_runs(checkout, start, together):
    """Those of the run that several processes train are a test of their own."""
    for part in " && ".join(COMMANDS).split(" && "):
        program, *words = shlex.split(part)
        installed = shutil.which(program, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
        if program in ("pip", "pytest") or installed is None:
            continue  # what runs this test, and programs that this machine lacks
        if "--seed" not in words if together else program == "torchrun":
            continue
        if "benchmarks/features.py" in words:
            words += ["--clips", "4", "--rounds", "1"]
        if program in PYTHON:
            finished = start(*PYTHON[program], *words, folder=checkout).wait()
        else:
            finished = subprocess.run([installed, *words], cwd=checkout, capture_output=True, text=True)
        expected = 1 if any(name in words for name in FALLS_SHORT) else 0
        assert finished.returncode == expected, f"{part}\n{finished.stdout}\n{finished.stderr}"
    resolved = yaml.safe_load((checkout / f"runs/demo/seed{together:d}/config.yaml").read_text(encoding="utf-8"))
    assert QUICK["training"].items() <= resolved["training"].items()  # not the repository's own demo


def test_named_systems_exist():
    named = re.findall(r"^\| `(\w+)` \|", README[README.index("| `--system` |"):README.index("names one of these")],
                       re.M)
    assert len(named) > 4 and all((REPOSITORY / "system_configs" / f"{name}.yaml").is_file() for name in named)


def test_what_comes_out_is_shown():
    shown = next(block for block in re.findall(r"```text\n(.*?)```", README, re.DOTALL) if "device" in block)
    overall = r"^overall +[\d.]+% +[\d.]+ to +[\d.]+ +[\d.]+ +[\d.]+ to +[\d.]+$"
    assert re.search(overall, shown, re.MULTILINE) and "demo data" in shown and ".zip" in shown
