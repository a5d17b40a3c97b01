"""Latency of prediction, compared with the same network of torch's own modules.

    python benchmarks/infer.py [--systems NAME,NAME] [--batch-sizes 1,16] [--threads 1] [--rounds 7]

The model is compressed as the system's configuration says, with random weights and without
training, stored, and read back. It runs in the form that prediction uses, and straightforwardly: in
float32, with torch's convolutions and norms, no operation in place and no gradients. That both
agree is checked first. They take turns and are timed by processor time, so that other load on the
machine matters little. The features are those of a recording of the length of a clip, without
decoding.
"""
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from train import SYSTEMS, make_plain

from task1a import config, config_file, model_file
from task1a.challenge import LABELS
from task1a.compression import packed
from task1a.compression.packed import Packing
from task1a.errors import CommandParser, run_command
from task1a.features.log_mel import stored_log_mel
from task1a.machine import keep_freed_memory
from task1a.model_file import ModelSpec
from task1a.training.compress import prepared, prune_to


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0."""
    parser = CommandParser(prog="benchmarks/infer.py", description=__doc__.split("\n")[0])
    parser.add_argument("--systems", default="bcresnet_asc_1_resnorm,bcresnet_asc_2_compressed_kd,"
                        "bcresnet_asc_8_compressed_kd", help="names of configurations")
    parser.add_argument("--batch-sizes", default="1,16", help="clips per forward pass")
    parser.add_argument("--threads", type=int, default=1, help="threads")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds; medians are printed")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    make_plain()  # the form for inference uses none of what this replaces

    for system in arguments.systems.split(","):
        settings = config_file.load(SYSTEMS / f"{system}.yaml")
        with tempfile.TemporaryDirectory() as folder:
            path = stored(settings, Path(folder))
            plain, spec = model_file.load(path)
            ours, _ = model_file.load_for_inference(path, torch.device("cpu"))
        for layer in plain.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        noise = np.random.default_rng(0).normal(0, 0.1, settings.features.clip_samples).astype(np.float32)
        of_features = median(timed(stored_log_mel, noise, spec.features) for _ in range(arguments.rounds))
        print(f"{system}, {arguments.threads} thread(s), features {1000 * of_features:.1f} ms a clip")
        for size in map(int, arguments.batch_sizes.split(",")):
            clips = torch.from_numpy(np.stack([stored_log_mel(noise, spec.features)] * size)).unsqueeze(1)
            clips += torch.randn_like(clips)
            with torch.inference_mode():
                difference = (plain(clips) - ours(clips)).abs().max().item()
                rounds = [(timed(plain, clips), timed(ours, clips)) for _ in range(arguments.rounds)]
            theirs, own = (1000 * median(column) / size for column in zip(*rounds, strict=True))
            print(f"  batch of {size:<3} plain {theirs:8.2f} ms a clip   task1a {own:8.2f} ms a clip   plain / task1a "
                  f"{theirs / own:.2f}   largest difference of logits {difference:.1e}", flush=True)
    return 0


def stored(settings: config.Config, folder: Path) -> Path:
    """Return the file of a system's model with random weights, compressed if the system is."""
    spec = ModelSpec(settings.model, settings.features, LABELS)
    torch.manual_seed(0)
    network = spec.build()
    for layer in network.modules():
        # as after training, so that the outputs depend on every layer
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
    model_file.save(folder / "model.safetensors", packed.stored_state(network), spec)
    if not settings.compression.enabled:
        return folder / "model.safetensors"
    packing = Packing(settings.compression.weight_scales)
    model, spec = prepared(folder / "model.safetensors", packing)
    # the smallest of all random weights would be whole layers
    prune_to(model, settings.compression.ratio, "layer")
    model_file.save(folder / "packed.safetensors", packed.pack(model, packing), spec)
    return folder / "packed.safetensors"


def timed(work: Callable[..., object], *arguments: object) -> float:
    """Return the processor time of a call in seconds."""
    started = time.process_time()
    work(*arguments)
    return time.process_time() - started


if __name__ == "__main__":
    sys.exit(run_command(main))
