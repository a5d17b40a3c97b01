"""``python -m task1a.export MODEL OUT.onnx``: write a model file as an ONNX model that is checked
against it.

``--features outside`` leaves the features out, ``--check`` or ``--run`` name the recordings to
compare on, and ``--int8`` quantizes the activations, calibrated on training clips of the run.
"""
import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from task1a.complexity.measure import LIMIT_POLICY
from task1a.complexity.measure import measure as measure_size
from task1a.errors import CommandParser, FallsShort, InputError, printable, run_command
from task1a.export.measure import measure
from task1a.files import copy, digest
from task1a.pipeline.run import Run, model_of

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from task1a.model_file import ModelSpec

_ROW = "{:<24} {:>12} {:>12} {:>10} {:>10} {:>12}"


def main(argv: Sequence[str] | None = None) -> int:
    """Export, check and measure a model; returns 0.

    Raises:
        InputError: the model, a recording or the run cannot be used, or a package is missing.
        FallsShort: the ONNX model does not predict what the model file predicts; it is not written.
    """
    arguments = _parse_arguments(argv)

    from tqdm import tqdm

    from evaluation import metrics
    from task1a import model_file
    from task1a.export import check
    from task1a.predict.recordings import recordings

    network, spec = model_file.load(arguments.model)
    read = partial(check.read_waveform, features=spec.features)
    test_clips, paths, where = None, [], "clips of noise"
    if arguments.run:
        run = Run(arguments.run)
        test_clips = _clips(run, spec, "test")
        paths, where = [run.data_root / name for name in test_clips.filename], f"test clips of {run}"
    elif arguments.check:
        paths, where = recordings(arguments.check), "recordings"

    with tempfile.TemporaryDirectory() as folder:
        alone, files = _export(Path(folder), arguments, network, spec, read)
        hidden = len(paths) < 2 or not sys.stderr.isatty()
        progress = tqdm(paths, unit=" clips", disable=hidden)
        waveforms = map(read, progress) if paths else check.noise(spec.features)
        compared = check.compare(network, spec.features, [alone, *files.values()], waveforms)
        stored, of_network, complete = compared[:3]
        where = printable(f"{len(stored):,} {where}")
        difference, inside = np.abs(of_network - stored).max(), np.abs(complete - stored).max()
        for value, limit in ((difference, check.TOLERANCE), (inside, check.TOLERANCE_INSIDE)):
            if not value <= limit:  # or if it is not a number
                raise FallsShort(f"{arguments.out} is not written: its probabilities of {where} differ by up to "
                                 f"{value:.2g} from those of {arguments.model}; rounding explains up to {limit:g}")
        copy(list(files.values())[-1], arguments.out)

        from_waveform = arguments.features == "inside"
        print(f"probabilities of {where} differ from those in torch by at most {difference:.1e}"
              + (f", with features inside by {inside:.1e}" if from_waveform else ""))
        if test_clips is not None:
            scenes = test_clips.scene_label
            for name, probabilities in zip(["torch", *files], [stored, *compared[2:]], strict=True):
                predicted = [spec.labels[index] for index in probabilities.argmax(axis=1)]
                print(f"  {name:<22} accuracy {metrics.accuracy(scenes, predicted):.1f}%  "
                      f"log loss {metrics.log_loss(scenes, probabilities, spec.labels):.3f}")
        print(f"\n{_sizes(arguments.model, files, from_waveform)}")
    print(printable(arguments.out))
    return 0


def _export(folder: Path, arguments: argparse.Namespace, network: "nn.Module", spec: "ModelSpec",
            read: Callable[[Path], np.ndarray]) -> tuple[Path, dict[str, Path]]:
    """Write the ONNX models.

    Returns:
        The file of the network alone in float32, without features, and the files of the models as
        they were asked for, by their names in the table of sizes; the last one is the model to
        keep.
    """
    from task1a import model_file
    from task1a.export import graph
    from task1a.export.activations import quantize_activations
    from task1a.features.log_mel import stored_log_mel

    alone = graph.network_graph(network, spec)
    models, calibration = {"ONNX": alone}, []
    if arguments.int8:
        run = Run(arguments.run)
        names = _clips(run, spec, "train").filename
        # drawn at random, but always the same
        chosen = np.random.default_rng(0).permutation(len(names))[:arguments.calibration_clips]
        calibration = [names[index] for index in sorted(chosen)]
        models["ONNX, int8 activations"] = quantize_activations(
            alone, [run.data_root / name for name in calibration],
            lambda path: stored_log_mel(read(path), spec.features), arguments.reduce_range)

    tensors, _ = model_file.read(arguments.model)
    facts = {"model_sha256": digest(arguments.model), "calibration_clips": json.dumps(calibration)}
    files: dict[str, Path] = {}
    for name, model in models.items():
        graph.store_as_packed(model, tensors)
        if model is alone:
            graph.write(folder / "alone.onnx", alone)
        if arguments.features == "inside":
            model = graph.with_features(graph.features_graph(spec.features), model)
        graph.describe(model, spec, facts)
        files[name] = folder / f"{len(files)}.onnx"
        graph.write(files[name], model)
    return folder / "alone.onnx", files


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        InputError: arguments are wrong or contradict each other, or the model or a package is
            missing.
    """
    parser = CommandParser(prog="python -m task1a.export", description="Write a model file as an ONNX model.")
    parser.add_argument("model", metavar="MODEL", type=Path, help="run folder or model file, e.g. runs/demo/seed0")
    parser.add_argument("out", metavar="OUT.onnx", type=Path, help="ONNX model to write")
    parser.add_argument("--features", choices=("inside", "outside"), default="inside",
                        help="inside (default): the input is a waveform; outside: log-mel energies")
    parser.add_argument("--check", metavar="FILE|FOLDER", type=Path, nargs="+",
                        help="recordings on which both models are compared (default: noise)")
    parser.add_argument("--run", metavar="RUN", type=Path,
                        help="run of the model: both models are compared on its test clips, with their scores")
    parser.add_argument("--int8", action="store_true",
                        help="quantize the activations, too, calibrated on training clips of --run")
    parser.add_argument("--calibration-clips", metavar="N", type=int, default=100,
                        help="number of these training clips (default: 100)")
    parser.add_argument("--reduce-range", action="store_true",
                        help="with --int8: weights of 7 bits, for x86 processors without VNNI")
    arguments = parser.parse_args(argv)
    arguments.model = model_of(arguments.model)
    if arguments.out.suffix != ".onnx":
        raise InputError(f"{arguments.out}: the name of an ONNX model ends with .onnx")
    if arguments.check and arguments.run:
        raise InputError("--check and --run: give one of them; --run compares on the test clips of the run")
    if arguments.int8 and not arguments.run:
        raise InputError("--int8: give the run of the model with --run, whose training clips calibrate the activations")
    if arguments.calibration_clips < 1:
        raise InputError(f"--calibration-clips {arguments.calibration_clips}: must be at least 1")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise InputError(f"the package {package} is needed to export: pip install -e '.[export]'")
    if not arguments.model.is_file():
        raise InputError(f"{arguments.model}: no such model file")
    return arguments


def _clips(run: Run, spec: "ModelSpec", split: str) -> "pd.DataFrame":
    """Return the readable clips of a split of a run.

    Raises:
        InputError: the run has other features or labels than the model, or its data set is missing.
    """
    from evaluation import records
    from task1a.data.dataset import Dataset

    if run.config.features != spec.features or tuple(records.read(run, "labels")["labels"]) != spec.labels:
        raise InputError(f"{run.folder}: has other features or labels than the model; give the run that made it")
    clips = Dataset(run.data_root).split(split)
    damaged = records.read(run, "features")["damaged"]["development"]
    return clips[~clips.filename.isin(set(damaged))].reset_index(drop=True)


def _sizes(model: Path, files: dict[str, Path], from_waveform: bool) -> str:
    """Format size, operators, latency and memory of the model file and of its ONNX models as a
    table."""
    import onnx

    stored = measure_size([model])
    float_bytes = 4 * stored["policies"][LIMIT_POLICY]["parameters"]
    lines = [_ROW.format("", "on disk", "non-zero", "operators", "latency", "peak memory")]
    feature_bytes = 0
    for name, path in {"torch": model, **files}.items():
        size = measure_size([path])
        counted = size["policies"][LIMIT_POLICY]["bytes"]
        feature_bytes = size["models"][0]["excluded"].get("features", {"bytes": 0})["bytes"]
        operators = f"{len(onnx.load(path).graph.node):,}" if path != model else ""
        measured = measure(path, from_waveform)
        lines.append(_ROW.format(
            name, f"{path.stat().st_size:,} B", f"{counted:,} B", operators,
            f"{measured['milliseconds']:.1f} ms", f"{measured['peak_bytes'] / 1e6:.0f} MB"))

    features = "with" if from_waveform else "without"
    lines.append(f"latency of one clip in one thread, {features} its features; memory of the whole process")
    lines.append(f"torch unpacks the model and computes in float32, in which its values take {float_bytes:,} B")
    if from_waveform:
        lines.append(f"non-zero: without the features inside ONNX models, which take {feature_bytes:,} B")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
