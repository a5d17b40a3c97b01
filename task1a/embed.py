"""Figure 1 of the paper: do frequency-wise or channel-wise statistics of a network's features
reveal the device?

``python -m task1a.embed RUN [--data-root DIR] [--stage N] [--out DIR]`` draws the t-SNE (van der
Maaten & Hinton, JMLR 2008) of both kinds of statistics, coloured by device, as PNG and SVG. A
linear probe (Alain & Bengio, arXiv 1610.01644), cross-validated by location, measures how well they
predict the device.

The features are the output [N, C, F, T] of a stage, before any normalization that follows it. Kim
et al. (arXiv 2111.06531) show stage 2 of ASC-1 without ResNorm: the frequency-wise statistics
separate the devices, which is why ResNorm is frequency-wise.
"""
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation import records
from evaluation.per_device import DEMO_NOTE
from task1a.errors import CommandParser, InputError, run_command
from task1a.files import replacing, write_json
from task1a.pipeline.run import Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from task1a.predict.clips import ReadClips

AXES = {"frequency-wise": (1, 3), "channel-wise": (2, 3)}
"""axes of [N, C, F, T] over which each kind of statistics is computed"""
FOLDS = 5


def compute_statistics(x: "Tensor", over: tuple[int, int]) -> "Tensor":
    """Compute mean and standard deviation of features over two axes.

    Shape: [N, C, F, T] -> [N, 2 F] over (1, 3), [N, 2 C] over (2, 3): the means, then the standard
    deviations.
    """
    import torch

    variance, mean = torch.var_mean(x, dim=over, correction=0)
    return torch.cat([mean, variance.sqrt()], dim=1)


def layer_statistics(model: "nn.Module", layer: "nn.Module", read: "ReadClips", clips: int,
                     batch_size: int = 64) -> dict[str, np.ndarray]:
    """Compute frequency-wise and channel-wise statistics of a layer's output.

    Args:
        model: model in evaluation mode.
        layer: layer of the model, e.g. one of its ``stages``.
        read: function from indices to the log-mel energies of these clips.
        clips: number of clips.
        batch_size: clips per forward pass.

    Returns:
        [clips, 2 F] and [clips, 2 C], by the names of :data:`AXES`.
    """
    import torch

    from task1a.predict.clips import logits

    collected: dict[str, list[Tensor]] = {name: [] for name in AXES}

    def collect(_: "nn.Module", inputs: Any, output: "Tensor") -> None:
        for name, over in AXES.items():
            collected[name].append(compute_statistics(output, over))

    hook = layer.register_forward_hook(collect)
    logits(model, read, clips, batch_size, torch.device("cpu"))
    hook.remove()
    return {name: torch.cat(parts).numpy() for name, parts in collected.items()}


def probe(features: np.ndarray, devices: Sequence[str], locations: Sequence[str]) -> dict[str, float]:
    """Measure how well a linear probe predicts the recording device, cross-validated by location.

    Args:
        features: [clips, dimensions].
        devices: device of each clip.
        locations: location of each clip; training and test clips of a fold have different
            locations.

    Returns:
        ``accuracy``: class-averaged, in percent, mean over :data:`FOLDS` folds; ``deviation``:
        standard deviation over the folds; ``chance``: accuracy of guessing.

    Raises:
        InputError: there are fewer than :data:`FOLDS` locations, or only one device.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(set(locations)) < FOLDS or len(set(devices)) < 2:
        raise InputError(f"{len(set(locations))} locations and {len(set(devices))} devices are too few to tell devices "
                         f"apart in {FOLDS} folds by location")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    scores = 100 * cross_val_score(classifier, features, np.asarray(devices), groups=np.asarray(locations), cv=folds,
                                   scoring="balanced_accuracy")
    return {"accuracy": float(np.mean(scores)), "deviation": float(np.std(scores, ddof=1)),
            "chance": 100 / len(set(devices))}


def embed(features: np.ndarray, seed: int = 0) -> np.ndarray:
    """Embed standardised features by t-SNE: [clips, dimensions] -> [clips, 2]."""
    from sklearn.manifold import TSNE
    from sklearn.preprocessing import StandardScaler

    scaled = StandardScaler().fit_transform(features)
    return TSNE(perplexity=min(30, (len(features) - 1) / 3), init="pca", random_state=seed).fit_transform(scaled)


def draw(points: Mapping[str, np.ndarray], devices: Sequence[str], title: str, paths: Sequence[Path]) -> None:
    """Draw scatter plots side by side, coloured by device; the suffix of each path determines its
    format."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "task1a"}):  # for reproducible files
        figure = Figure(figsize=(11, 5.5), layout="constrained")
        for axes, (name, xy) in zip(figure.subplots(1, len(points)), points.items(), strict=True):
            for index, device in enumerate(sorted(set(devices))):
                axes.scatter(*xy[np.asarray(devices) == device].T, s=9, color=f"C{index}", label=device)
            axes.set(title=f"{name} mean and deviation", xticks=[], yticks=[])
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", title="device")
        figure.suptitle(title)
        for path in paths:
            with replacing(path) as part:
                kind = path.suffix.removeprefix(".")
                figure.savefig(part, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the figure for a run, and measure what it shows; returns 0."""
    parser = CommandParser(prog="python -m task1a.embed",
                           description="How well the features of a network reveal the device.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, e.g. runs/bcresnet_asc_1/seed0")
    parser.add_argument("--data-root", metavar="DIR", type=Path, help="development set (default: that of the run)")
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3, 4),
                        help="stage of the network with the features (default: 2)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="output folder (default: RUN/embedding)")
    arguments = parser.parse_args(argv)

    run = Run(arguments.run)
    config = run.config
    root = arguments.data_root or (Path(config.data.root) if config.data.root else None)
    if root is None:
        raise InputError(f"{run.config_file}: names no development set; give its folder with --data-root DIR")

    from torch import nn

    from task1a import model_file
    from task1a.data.dataset import Dataset
    from task1a.data.tau_layout import is_demo
    from task1a.features.cache import FeatureCache

    model, spec = model_file.load(run.vanilla)
    stages = getattr(getattr(model, "network", model), "stages", None)
    if not isinstance(stages, nn.ModuleList) or len(stages) < arguments.stage:
        raise InputError(f"{run.vanilla}: {spec.model.name} has no stage {arguments.stage}; use a BC-ResNet-ASC")

    cache = FeatureCache.open(root, config.features, Path(config.data.cache_dir))
    clips = Dataset(root).split("test")
    damaged = records.read(run, "features")["damaged"]["development"]
    clips = clips[~clips.filename.isin(set(damaged))].reset_index(drop=True)
    rows = cache.rows(clips.filename)
    layer = stages[arguments.stage - 1]
    features = layer_statistics(model, layer, lambda indices: cache.read(rows[indices]), len(clips))

    probes = {name: probe(values, clips.device, clips.identifier) for name, values in features.items()}
    points = {name: embed(values) for name, values in features.items()}
    demo = is_demo(root)
    title = f"{config.system}, stage {arguments.stage}, {len(clips):,} test clips" + (f" ({DEMO_NOTE})" if demo else "")
    stem = (arguments.out or arguments.run / "embedding") / f"stage{arguments.stage}"
    png, svg, numbers = stem.with_suffix(".png"), stem.with_suffix(".svg"), stem.with_suffix(".json")
    draw(points, clips.device, title, [png, svg])
    write_json(numbers, {"system": config.system, "stage": arguments.stage, "clips": len(clips), "demo": demo,
                         "locations": clips.identifier.nunique(), "probe": probes})
    print(title)
    for name, score in probes.items():
        print(f"{name:<15} linear probe of the device: {score['accuracy']:.1f} +- {score['deviation']:.1f} % "
              f"(chance {score['chance']:.1f} %)")
    print(png, svg, numbers, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
