"""Prediction with a stored model: of the clips of a data set, and of any recordings.

``python -m task1a.predict MODEL FILE|FOLDER... [--window SECONDS] [--overlap FRACTION] [--csv FILE] [--json FILE]``
``python -m task1a.predict MODEL --microphone``

A model file is enough: it holds the settings of the features and the scene labels. torch and pandas are imported where
they are used, so that ``--help`` and wrong arguments are answered at once.
"""
import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from tqdm import tqdm

from task1a import microphone
from task1a.data.sound import SoundCheck, describe
from task1a.errors import CommandParser, FallsShort, InputError, ModelError, printable, run_command
from task1a.features.audio import read_windows
from task1a.files import check_outputs, to_json, write_output
from task1a.machine import device_of, keep_freed_memory

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn

ReadClips = Callable[[np.ndarray], np.ndarray]
"""Reads clips: indices [n] -> log-mel energies float32 [n, mel bins, frames]."""

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64")
"""Files that are taken from a folder."""

_BATCH, _BATCH_BYTES = 16, 10 ** 9  # windows per forward pass, fewer if their activations take more memory
_LEAST_STEP = 0.1  # seconds between two predictions of what a microphone records


def logits(model: "nn.Module", read: ReadClips, clips: int, batch_size: int, device: "torch.device") -> "Tensor":
    """Logits of a model in evaluation mode for clips 0 ... ``clips`` - 1: float32 [clips, classes] on the CPU.

    Afterwards the model is in the mode it was in before.
    """
    import torch

    training = model.training
    model.eval()
    batches = []
    with torch.no_grad():
        for start in range(0, clips, batch_size):
            x = torch.from_numpy(read(np.arange(start, min(start + batch_size, clips)))).unsqueeze(1)
            batches.append(model(x.to(device)).float().cpu())
    model.train(training)
    return torch.cat(batches)


def predict(path: Path, filenames: Sequence[str], read: ReadClips, batch_size: int, device: "torch.device",
            time_rolls: int = 1) -> "pd.DataFrame":
    """Predict clips with a model file.

    Args:
        path: model file.
        filenames: names of the clips.
        read: reads their features by index.
        batch_size: clips per forward pass.
        device: device to compute on.
        time_rolls: number of equidistant circular shifts along time whose probabilities are averaged.

    Returns:
        A table of :mod:`task1a.predictions`; probabilities are the softmax of the logits in float64.

    Raises:
        InputError: the file is not a usable model, or its outputs overflow.
    """
    from task1a import model_file, predictions

    keep_freed_memory()
    model, spec = model_file.load_for_inference(path, device)
    shifted = []
    for number in range(time_rolls):
        frames = round(number * spec.features.frames / time_rolls)
        outputs = logits(model, lambda indices, shift=frames: np.roll(read(indices), shift, axis=-1), len(filenames),
                         batch_size, device)
        shifted.append(_probabilities(outputs, path))
    return predictions.table(filenames, np.mean(shifted, axis=0), spec.labels)


def _probabilities(outputs: "Tensor", path: Path) -> np.ndarray:
    """The softmax of the logits [clips, classes] of a model file, in float64."""
    import torch

    from task1a import model_file

    if not outputs.isfinite().all():  # the features are finite
        name, largest = model_file.largest(path)
        raise ModelError(f"{path}: its outputs overflow; the largest of its values, {largest:g}, is in tensor {name}")
    return torch.softmax(outputs.double(), dim=1).numpy()


@dataclass(frozen=True)
class Prediction:
    """Scene probabilities of a window of a recording, or of a whole recording."""

    start: float
    """start in seconds"""
    end: float
    """end in seconds"""
    probabilities: dict[str, float]
    """probability of each scene"""

    @property
    def scene(self) -> str:
        """The most probable scene."""
        return max(self.probabilities, key=self.probabilities.get)


class Predictor:
    """A stored model that predicts recordings.

    Args:
        path: model file, vanilla or packed.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: the file is not a usable model, a mel filter of its features is empty, or there is no such device.
    """

    def __init__(self, path: Path, device: str = "auto") -> None:
        import torch

        from task1a import model_file
        from task1a.features.log_mel import stored_log_mel

        self.path, self.device = path, torch.device(device_of(device))
        self.model, self.spec = model_file.load_for_inference(path, self.device)
        self.batch_size = max(1, min(_BATCH, _BATCH_BYTES // self.spec.activation_bytes()))
        features = self.spec.features
        try:
            stored_log_mel(np.zeros(features.n_fft, np.float32), features)
        except InputError as error:
            raise ModelError(f"{path}: {error}") from None

    def predict(self, samples: np.ndarray, rate: int) -> Prediction:
        """Predict the scene of samples: the mean over their windows.

        Shape:
            samples: [samples] or [samples, channels], floating-point values in [-1, 1] or integers, which are scaled
                by the range of their type.
        """
        recording = io.BytesIO()
        samples = np.asarray(samples)
        if np.issubdtype(samples.dtype, np.integer):
            integers = np.iinfo(samples.dtype)
            middle = (integers.max + integers.min + 1) // 2  # 0, or 128 for bytes without a sign as in WAV
            samples = (samples - float(middle)) / float(integers.max + 1 - middle)
        soundfile.write(recording, samples, rate, format="WAV", subtype="FLOAT")
        return self.whole(list(self.windows(recording.getvalue())))

    def windows(self, source: Path | bytes, window: float | None = None, overlap: float = 0.0,
                sound: SoundCheck | None = None) -> Iterator[Prediction]:
        """Predict the windows of a recording, see :func:`task1a.features.audio.read_windows`.

        Raises:
            InputError, OSError: the recording cannot be read, or the outputs of the model overflow (ModelError).
        """
        from task1a.features.log_mel import stored_log_mel

        waiting: list[tuple[float, float, np.ndarray]] = []
        for start, end, samples in read_windows(source, self.spec.features, window, overlap, sound):
            energies = stored_log_mel(samples, self.spec.features)
            if not np.isfinite(energies).all():
                raise InputError("holds samples too large to compute with")
            waiting.append((start, end, energies))
            if len(waiting) == self.batch_size:
                yield from self._predicted(waiting)
                waiting = []
        if waiting:
            yield from self._predicted(waiting)

    def _predicted(self, windows: Sequence[tuple[float, float, np.ndarray]]) -> Iterator[Prediction]:
        energies = np.stack([window[2] for window in windows])
        outputs = logits(self.model, lambda indices: energies[indices], len(windows), len(windows), self.device)
        for (start, end, _), values in zip(windows, _probabilities(outputs, self.path), strict=True):
            yield Prediction(start, end, dict(zip(self.spec.labels, values.tolist(), strict=True)))

    def whole(self, windows: Sequence[Prediction]) -> Prediction:
        """The prediction of a recording: the mean of the probabilities of its windows."""
        mean = {}
        for label in self.spec.labels:
            mean[label] = float(np.mean([window.probabilities[label] for window in windows]))
        return Prediction(windows[0].start, windows[-1].end, mean)


def recordings(paths: Iterable[Path]) -> list[Path]:
    """The given files, and all audio files in the given folders, each once.

    Raises:
        InputError: a path does not exist, or a folder has no audio file.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise InputError(f"{path}: no audio file in this folder ({', '.join(SUFFIXES)})")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file or folder")
    return list(dict.fromkeys(found))


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions of recordings; returns 0.

    Raises:
        InputError: the model or a path cannot be used, or no recording can be read.
        FallsShort: some recordings cannot be read; all others have been predicted.
    """
    parser = CommandParser(prog="python -m task1a.predict", description="Scene probabilities of any recordings.")
    parser.add_argument("model", metavar="MODEL", type=Path, help="model file, e.g. RUN/compress/packed.safetensors")
    parser.add_argument("paths", metavar="FILE|FOLDER", type=Path, nargs="*", help="recordings, or folders of them")
    parser.add_argument("--microphone", action="store_true", help="predict what the sound card records, until Ctrl-C")
    parser.add_argument("--window", metavar="SECONDS", type=float,
                        help="length of the windows of long recordings (default: that of the model's clips)")
    parser.add_argument("--overlap", metavar="FRACTION", type=float,
                        help="part of a window that overlaps with the next one (default: 0; with --microphone: 0.9)")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="write all probabilities to a CSV file")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all probabilities to a JSON file")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                        help="auto (default) uses a GPU if there is one")
    arguments = parser.parse_intermixed_args(argv)
    overlap = arguments.overlap
    if overlap is None:
        overlap = 0.9 if arguments.microphone else 0.0
    if not 0 <= overlap < 1:
        raise InputError(f"--overlap {overlap:g}: must be at least 0 and less than 1")
    if bool(arguments.paths) == arguments.microphone:
        raise InputError("give recordings or folders, or --microphone")
    if arguments.microphone and (arguments.csv or arguments.json):
        raise InputError("--csv and --json are for recordings; --microphone prints to the terminal")
    keep_freed_memory()
    predictor = Predictor(arguments.model, arguments.device)
    longest = predictor.spec.features.clip_seconds
    if arguments.window is not None and not 0.01 <= arguments.window <= longest:
        raise InputError(f"--window {arguments.window:g}: must be between 0.01 and {longest:g} seconds, the length of "
                         "the model's clips")
    if arguments.microphone:
        return _listen(predictor, arguments.window or longest, overlap)

    for label in predictor.spec.labels:
        if arguments.csv and label in _COLUMNS:
            raise InputError(f"--csv: {label} is a scene of the model and a column of the table; use --json")
    files = recordings(arguments.paths)
    outputs = {"--csv": arguments.csv, "--json": arguments.json}
    check_outputs(outputs, [arguments.model, *files])
    to_files, damaged = any(outputs.values()), 0
    results: list[_Result] = []
    noted: dict[str, list[str]] = {}
    try:
        with tqdm(files, unit=" files", disable=len(files) < 2 or not sys.stderr.isatty()) as progress:
            for file in progress:
                name, sound = printable(file), SoundCheck()
                try:
                    windows = list(predictor.windows(file, arguments.window, overlap, sound))
                except ModelError:
                    raise
                except (InputError, OSError) as error:
                    damaged += 1
                    reason = error.strerror if isinstance(error, OSError) else error
                    progress.write(f"error: {name}: {printable(reason)}", file=sys.stderr)
                    continue
                results.append((name, predictor.whole(windows), windows))
                noted[name] = sound.header + sound.notes()
                if not to_files:
                    progress.write(_lines(*results[-1]), file=sys.stdout)
    finally:  # what has been predicted is not lost, whatever ends the command
        if (done := len(results) + damaged) < len(files):
            print(f"note: ends after {done:,} of {len(files):,} recordings", file=sys.stderr)
        if to_files and results:
            _write(results, arguments.csv, arguments.json)
    if not results:
        raise InputError("none of the recordings can be read")
    for note in describe(noted):
        print(f"note: {note}", file=sys.stderr)
    if damaged:
        raise FallsShort(f"{damaged:,} of {len(files):,} recordings cannot be read; they are named above")
    return 0


def _listen(predictor: Predictor, window: float, overlap: float) -> int:
    """Print the prediction of what the microphone records, on one line of a terminal, until Ctrl-C."""
    ends = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
    started = time.monotonic()
    try:
        for samples, rate in microphone.windows(window, max(window * (1 - overlap), _LEAST_STEP)):
            prediction = predictor.predict(samples, rate)
            print(ends[0] + _line(f"{time.monotonic() - started:.1f} s", prediction), end=ends[1], flush=True)
    except KeyboardInterrupt:
        print()
    return 0


_COLUMNS = ("file", "window", "start", "end", "scene")
"""columns of the CSV file before those of the scenes"""
_Result = tuple[str, Prediction, list[Prediction]]
"""name of a recording, its prediction, and those of its windows"""


def _write(results: Sequence[_Result], csv: Path | None, json: Path | None) -> None:
    """Write the files, and then print the lines: their reader may have ended; and a full disk leaves them at least."""
    try:
        if csv:
            write_output(csv, _csv(results))
        if json:
            write_output(json, to_json([{"file": name, **asdict(whole), "windows": [asdict(part) for part in windows]}
                                        for name, whole, windows in results]))
    finally:
        print(*(_lines(*result) for result in results), sep="\n")


def _lines(name: str, whole: Prediction, windows: Sequence[Prediction]) -> str:
    """A line for a recording, and one for each of its windows if there are several."""
    lines = [_line(name, whole)]
    if len(windows) > 1:
        lines += [_line(f"  {window.start:.1f} to {window.end:.1f} s", window) for window in windows]
    return "\n".join(lines)


def _line(name: str, prediction: Prediction) -> str:
    best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:3]
    return f"{name:<40}  " + "  ".join(f"{printable(label)} {100 * probability:.1f}%" for label, probability in best)


def _csv(results: Sequence[_Result]) -> str:
    """One row per recording, ``window`` is empty there, and one per window."""
    import pandas as pd

    rows = []
    for name, whole, windows in results:
        for number, prediction in enumerate([whole, *windows]):
            row = name, number or None, round(prediction.start, 3), round(prediction.end, 3), prediction.scene
            rows.append(dict(zip(_COLUMNS, row, strict=True)) | prediction.probabilities)
    return pd.DataFrame(rows).astype({"window": "Int64"}).to_csv(index=False, lineterminator="\n", float_format="%.9g")


if __name__ == "__main__":
    sys.exit(run_command(main))
