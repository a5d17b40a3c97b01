"""Latency and memory of a model in a process of its own: ``python -m task1a.export.measure MODEL
[--waveform]``.

A model file runs in torch, from log-mel energies or from a waveform; an ONNX model runs in
onnxruntime, and torch is not loaded. Prints JSON.
"""
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import psutil

from task1a.errors import CommandParser, InputError, run_command

ROUNDS = 20


def measure(model: Path, from_waveform: bool) -> dict[str, float]:
    """Measure one clip at a time in one thread.

    Returns:
        ``milliseconds`` of processor time per clip, and ``peak_bytes``, the most memory that the
        process had.

    Raises:
        InputError: the model cannot be run, e.g. because the process ran out of memory.
    """
    command = [sys.executable, "-m", __name__, str(model), *(["--waveform"] if from_waveform else [])]
    finished = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"its process ended with status {finished.returncode}"]
        raise InputError(f"{model}: its latency cannot be measured: {lines[-1].removeprefix('error: ')}")
    return json.loads(finished.stdout)


def _onnx(model: Path) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    clip = np.random.default_rng(0).normal(0, 0.1, (1, *given.shape[1:])).astype(np.float32)
    return lambda: session.run(None, {given.name: clip})


def _torch(model: Path, from_waveform: bool) -> Callable[[], object]:
    import torch

    from task1a import model_file
    from task1a.features.log_mel import log_mel

    torch.set_num_threads(1)
    network, spec = model_file.load(model)
    waveform = np.random.default_rng(0).normal(0, 0.1, spec.features.clip_samples).astype(np.float32)
    energies = log_mel(waveform, spec.features)

    @torch.inference_mode()
    def run() -> object:
        clip = log_mel(waveform, spec.features) if from_waveform else energies
        return torch.softmax(network(torch.from_numpy(clip)[None, None]), dim=1)

    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Run a model, and print what was measured; returns 0."""
    parser = CommandParser(prog="python -m task1a.export.measure", description="Latency and memory of a model.")
    parser.add_argument("model", metavar="MODEL", type=Path, help="model file, or ONNX model")
    parser.add_argument("--waveform", action="store_true", help="a model file computes the features, too")
    arguments = parser.parse_args(argv)
    path = arguments.model
    run = _onnx(path) if path.suffix == ".onnx" else _torch(path, arguments.waveform)
    for _ in range(3):  # the first rounds allocate memory and choose algorithms
        run()
    started = time.process_time()
    for _ in range(ROUNDS):
        run()
    milliseconds = 1000 * (time.process_time() - started) / ROUNDS
    status = Path("/proc/self/status")
    if status.is_file():  # Linux, whose getrusage includes the memory of the parent process
        [peak] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        peak_bytes = 1024 * int(peak.split()[1])
    else:
        memory = psutil.Process().memory_info()
        peak_bytes = getattr(memory, "peak_wset", memory.rss)  # macOS: the present memory
    print(json.dumps({"milliseconds": milliseconds, "peak_bytes": peak_bytes}))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
