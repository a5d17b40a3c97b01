"""Figure 1 of the paper: do frequency-wise or channel-wise statistics of a network's features tell the device?

``python -m task1a.embed RUN [--data-root DIR] [--stage N] [--out DIR]`` draws the t-SNE (van der Maaten & Hinton, JMLR
2008) of either, coloured by device, as PNG and SVG, and measures what the picture shows: how well a linear probe
(Alain & Bengio, arXiv 1610.01644) tells the device from either, cross-validated by location.

The features are those of a stage's output [N, C, F, T], before any normalization that follows it. Kim et al. (arXiv
2111.06531) show stage 2 of ASC-1 without ResNorm: the frequency-wise statistics separate the devices, which is why
ResNorm is frequency-wise.
"""
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from evaluation.per_device import DEMO_NOTE
from task1a import model_file
from task1a.data.dataset import Dataset
from task1a.data.tau_layout import is_demo
from task1a.errors import CommandParser, InputError, run_command
from task1a.features.cache import FeatureCache
from task1a.files import replacing, write_json
from task1a.predict import ReadClips
from task1a.run import Run

AXES = {"frequency-wise": (1, 3), "channel-wise": (2, 3)}
"""the axes of [N, C, F, T] that each kind of statistics is taken over"""
FOLDS = 5


def statistics(x: Tensor, over: tuple[int, int]) -> Tensor:
    """Mean and standard deviation of features over two of their axes.

    Shape: [N, C, F, T] -> [N, 2 F] over (1, 3), [N, 2 C] over (2, 3): the means, then the deviations.
    """
    variance, mean = torch.var_mean(x, dim=over, correction=0)
    return torch.cat([mean, variance.sqrt()], dim=1)


@torch.no_grad()
def layer_statistics(model: nn.Module, layer: nn.Module, read: ReadClips, clips: int,
                     batch_size: int = 64) -> dict[str, np.ndarray]:
    """Frequency-wise and channel-wise statistics of a layer's output for clips 0 ... ``clips`` - 1.

    Args:
        model: in evaluation mode.
        layer: of the model, e.g. one of its ``stages``.
        read: gives the clips' log-mel energies.
        clips: how many there are.
        batch_size: clips a forward pass.

    Returns:
        [clips, 2 F] and [clips, 2 C] by the names of :data:`AXES`.
    """
    collected: dict[str, list[Tensor]] = {name: [] for name in AXES}

    def collect(_: nn.Module, inputs: Any, output: Tensor) -> None:
        for name, over in AXES.items():
            collected[name].append(statistics(output, over))

    hook = layer.register_forward_hook(collect)
    for start in range(0, clips, batch_size):
        model(torch.from_numpy(read(np.arange(start, min(start + batch_size, clips)))).unsqueeze(1))
    hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in collected.items()}


def probe(features: np.ndarray, devices: Sequence[str], locations: Sequence[str]) -> dict[str, float]:
    """How well a linear classifier tells the device of clips from locations that it has not seen.

    Args:
        features: [clips, dimensions].
        devices: by clip.
        locations: by clip; none is both learnt from and judged.

    Returns:
        ``accuracy``: mean over :data:`FOLDS` folds of the class-averaged accuracy, in percent; ``deviation`` over the
        folds; ``chance``.

    Raises:
        InputError: there are fewer than :data:`FOLDS` locations, or only one device.
    """
    devices, locations = np.asarray(devices), np.asarray(locations)
    if len(set(locations)) < FOLDS or len(set(devices)) < 2:
        raise InputError(f"{len(set(locations))} locations and {len(set(devices))} devices are too few to tell devices "
                         f"apart in {FOLDS} folds by location")
    scores = []
    for learnt, judged in StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(features, devices, locations):
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
        classifier.fit(features[learnt], devices[learnt])
        scores.append(100 * balanced_accuracy_score(devices[judged], classifier.predict(features[judged])))
    return {"accuracy": float(np.mean(scores)), "deviation": float(np.std(scores, ddof=1)),
            "chance": 100 / len(set(devices))}


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """t-SNE of standardised features: [clips, dimensions] -> [clips, 2]."""
    scaled = StandardScaler().fit_transform(features)
    return TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=seed).fit_transform(scaled)


def draw(points: Mapping[str, np.ndarray], devices: Sequence[str], title: str, paths: Sequence[Path]) -> None:
    """Scatter plots side by side, coloured by device, in the format that each path's suffix names."""
    import matplotlib
    from matplotlib.figure import Figure

    devices = np.asarray(devices)
    with matplotlib.rc_context({"svg.hashsalt": "task1a"}):  # else every file is different
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        for axes, (name, xy) in zip(figure.subplots(1, len(points)), points.items(), strict=True):
            for index, device in enumerate(sorted(set(devices))):
                axes.scatter(*xy[devices == device].T, s=9, color=f"C{index}", label=device)
            axes.set(title=f"{name} mean and deviation", xticks=[], yticks=[])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="device")
        figure.suptitle(title)
        for path in paths:
            with replacing(path) as part:
                kind = path.suffix.removeprefix(".")
                figure.savefig(part, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw and measure one run; returns 0."""
    parser = CommandParser(prog="python -m task1a.embed", description="How well a network's features tell the device.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, e.g. runs/bcresnet_asc_1/seed0")
    parser.add_argument("--data-root", metavar="DIR", type=Path, help="development set (default: that of the run)")
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3, 4), help="whose output (default: 2)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: RUN/embedding)")
    arguments = parser.parse_args(argv)
    run, out = Run(arguments.run), arguments.out or arguments.run / "embedding"
    config = run.config
    root = arguments.data_root or (Path(config.data.root) if config.data.root else None)
    if root is None:
        raise InputError(f"{run.config_file}: names no development set; give its folder with --data-root DIR")
    model, spec = model_file.load(run.vanilla)
    stages = getattr(getattr(model, "network", model), "stages", None)
    if not isinstance(stages, nn.ModuleList) or len(stages) < arguments.stage:
        raise InputError(f"{run.vanilla}: {spec.model.name} has no stages to look into; take a BC-ResNet-ASC")
    cache = FeatureCache.open(root, config.features, Path(config.data.cache_dir))
    clips = Dataset(root).split("test")
    damaged = run.read("features")["damaged"]["development"]
    clips = clips[~clips.filename.isin(set(damaged))].reset_index(drop=True)
    rows = cache.rows(clips.filename)
    found = layer_statistics(model, stages[arguments.stage - 1], lambda indices: cache.read(rows[indices]), len(clips))
    probes = {name: probe(features, clips.device, clips.identifier) for name, features in found.items()}
    demo = is_demo(root)
    title = f"{config.system}, stage {arguments.stage}, {len(clips):,} test clips" + (f" ({DEMO_NOTE})" if demo else "")
    points = {name: embed(features) for name, features in found.items()}
    pictures = [out / f"stage{arguments.stage}.{kind}" for kind in ("png", "svg")]
    draw(points, clips.device, title, pictures)
    numbers = out / f"stage{arguments.stage}.json"
    write_json(numbers, {"system": config.system, "stage": arguments.stage, "clips": len(clips), "demo": demo,
                         "locations": clips.identifier.nunique(), "probe": probes})
    print(title)
    for name, score in probes.items():
        print(f"{name:<15} linear probe of the device: {score['accuracy']:.1f} +- {score['deviation']:.1f} % "
              f"(chance {score['chance']:.1f} %)")
    for path in (*pictures, numbers):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
