import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from task1a.config import NETWORKS
from task1a.models import networks

TASK1A = Path(__file__).resolve().parents[2] / "task1a.py"


@pytest.fixture(scope="session")
def network():
    """A function that builds a network with default settings except those given."""

    def build(name="bcresnet_asc", classes=10, **settings):
        return networks.build(classes, name, **NETWORKS[name](**settings).settings)

    return build


@pytest.fixture(scope="session")
def as_trained():
    """A function that draws all weights, norms and running statistics of a model, as they might be after training."""

    @torch.no_grad()
    def draw(model):
        torch.manual_seed(1)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(0.5, 1.5).copysign_(torch.randn(layer.bias.shape))
                layer.bias.normal_()
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2)
        return model.eval()

    return draw


@pytest.fixture(scope="session")
def arguments(toy_data, toy_system) -> list[str]:
    development, evaluation = map(str, toy_data)
    return ["--system", str(toy_system), "--data-root", development, "--eval-root", evaluation, "--device", "cpu"]


@pytest.fixture(scope="session")
def undisturbed(arguments, once, start) -> Path:
    """A folder in which the whole chain has run once, in a process of its own."""
    def run(folder: Path) -> None:
        finished = start(TASK1A, *arguments, folder=folder).wait()
        assert finished.returncode == 0, finished.stderr
        (folder / "said.txt").write_text(finished.stdout, encoding="utf-8")

    return once("undisturbed", run)


@pytest.fixture
def blank_figures(monkeypatch):
    """Reports whose figures are empty, for other tests: drawing them takes half the time of a toy chain."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig",
                        lambda figure, file, **_: file.write('<svg viewBox="0 0 1 1"></svg>'))


@pytest.fixture
def again(undisturbed, tmp_path, monkeypatch):
    """A copy of the finished run, as the present folder."""
    shutil.copytree(undisturbed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def system(again, toy_system):
    """Writes a system that differs from the toy one in some settings, beside a copy of it."""
    shutil.copy(toy_system, again / "toy.yaml")

    def write(name: str, **settings) -> str:
        (again / f"{name}.yaml").write_text(yaml.safe_dump({"base": "toy.yaml", **settings}), encoding="utf-8")
        return str(again / f"{name}.yaml")

    return write
