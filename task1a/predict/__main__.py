"""The command ``python -m task1a.predict``: scene probabilities of any recordings, or of what a
microphone records.

``python -m task1a.predict MODEL FILE|FOLDER... [--window SECONDS] [--overlap FRACTION] [--csv FILE]
[--json FILE]`` ``python -m task1a.predict MODEL --microphone``

torch is imported after the arguments have been checked, so that ``--help`` and wrong arguments are
answered at once.
"""
import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from task1a.data.sound import SoundCheck, describe
from task1a.errors import CommandParser, FallsShort, InputError, ModelError, printable, run_command
from task1a.files import check_outputs, to_json, write_output
from task1a.machine import keep_freed_memory
from task1a.pipeline.run import model_of
from task1a.predict import microphone

if TYPE_CHECKING:
    from task1a.predict.recordings import Prediction, Predictor

_LEAST_STEP = 0.1  # seconds between two predictions of what a microphone records
_COLUMNS = ("file", "window", "start", "end", "scene")
"""columns of the CSV file before those of the scenes"""
_Result = tuple[str, "Prediction", "list[Prediction]"]
"""name of a recording, its prediction, and those of its windows"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print the predictions of recordings; returns 0.

    Raises:
        InputError: the model or a path cannot be used, or no recording can be read.
        FallsShort: some recordings cannot be read; all others have been predicted.
    """
    arguments = _parse_arguments(argv)
    from task1a.predict.recordings import Predictor, recordings

    keep_freed_memory()
    predictor = Predictor(model_of(arguments.model), arguments.device)
    longest = predictor.spec.features.clip_seconds
    if arguments.window is not None and not 0.01 <= arguments.window <= longest:
        raise InputError(f"--window {arguments.window:g}: must be between 0.01 and {longest:g} seconds, the length of "
                         "the model's clips")
    if arguments.microphone:
        return _listen(predictor, arguments.window or longest, arguments.overlap)

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
                    windows = list(predictor.windows(file, arguments.window, arguments.overlap, sound))
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


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        InputError: arguments are wrong or contradict each other.
    """
    parser = CommandParser(prog="python -m task1a.predict", description="Scene probabilities of any recordings.")
    parser.add_argument("model", metavar="MODEL", type=Path, help="run folder or model file, e.g. runs/demo/seed0")
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
    if arguments.overlap is None:
        arguments.overlap = 0.9 if arguments.microphone else 0.0
    if not 0 <= arguments.overlap < 1:
        raise InputError(f"--overlap {arguments.overlap:g}: must be at least 0 and less than 1")
    if bool(arguments.paths) == arguments.microphone:
        raise InputError("give recordings or folders, or --microphone")
    if arguments.microphone and (arguments.csv or arguments.json):
        raise InputError("--csv and --json are for recordings; --microphone prints to the terminal")
    return arguments


def _listen(predictor: "Predictor", window: float, overlap: float) -> int:
    """Print the prediction of what the microphone records, on one line of a terminal, until
    Ctrl-C."""
    ends = ("\r\033[K", "") if sys.stdout.isatty() else ("", "\n")
    started = time.monotonic()
    try:
        for samples, rate in microphone.windows(window, max(window * (1 - overlap), _LEAST_STEP)):
            prediction = predictor.predict(samples, rate)
            print(ends[0] + _line(f"{time.monotonic() - started:.1f} s", prediction), end=ends[1], flush=True)
    except KeyboardInterrupt:
        print()
    return 0


def _write(results: Sequence[_Result], csv: Path | None, json: Path | None) -> None:
    """Write the files, and then print the lines, even if the disk is full; their reader may have
    ended before."""
    try:
        if csv:
            write_output(csv, _csv(results))
        if json:
            entries = []
            for name, recording, windows in results:
                entries.append({"file": name, **asdict(recording), "windows": [asdict(window) for window in windows]})
            write_output(json, to_json(entries))
    finally:
        print(*(_lines(*result) for result in results), sep="\n")


def _lines(name: str, whole: "Prediction", windows: "Sequence[Prediction]") -> str:
    """Format a line for a recording, and one for each of its windows if there are several."""
    lines = [_line(name, whole)]
    if len(windows) > 1:
        lines += [_line(f"  {window.start:.1f} to {window.end:.1f} s", window) for window in windows]
    return "\n".join(lines)


def _line(name: str, prediction: "Prediction") -> str:
    best = sorted(prediction.probabilities.items(), key=lambda item: -item[1])[:3]
    return f"{name:<40}  " + "  ".join(f"{printable(label)} {100 * probability:.1f}%" for label, probability in best)


def _csv(results: Sequence[_Result]) -> str:
    """Format one row per recording, whose ``window`` is empty, and one per window."""
    import pandas as pd

    rows = []
    for name, whole, windows in results:
        for number, prediction in enumerate([whole, *windows]):
            start, end = round(prediction.start, 3), round(prediction.end, 3)
            row = dict(zip(_COLUMNS, (name, number or None, start, end, prediction.scene), strict=True))
            rows.append({**row, **prediction.probabilities})
    return pd.DataFrame(rows).astype({"window": "Int64"}).to_csv(index=False, lineterminator="\n", float_format="%.9g")


if __name__ == "__main__":
    sys.exit(run_command(main))
