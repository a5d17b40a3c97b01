"""Time and memory of a training step, compared with the same network of torch's own modules.

    python benchmarks/train.py [--systems NAME,NAME] [--batch-size 16] [--rounds 7] [--threads 1] [--distil]

Both networks have the same weights and compute float32 in contiguous memory; that they agree is
checked first. The plain one has torch's convolutions, ResNorm by its equations, no operation in
place, and the C library's defaults for memory, so each runs in a process of its own. The processes
take turns, one step at a time, and are timed by processor time, so that other load on the machine
matters little. The table of operators is torch's, of the faster network.
"""
import copy
import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from task1a import config_file
from task1a.challenge import LABELS
from task1a.compression.fold import fold_batch_norms
from task1a.errors import CommandParser, run_command
from task1a.machine import keep_freed_memory
from task1a.model_file import ModelSpec
from task1a.models import bcresnet, normalization
from task1a.models.cpu import kernels
from task1a.models.cpu.inference_form import inference_form
from task1a.training.compress import Teacher, distillation_loss

SYSTEMS = Path(__file__).resolve().parent.parent / "system_configs"
OPERATORS = 12
"""number of operators in the table"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0."""
    parser = CommandParser(prog="benchmarks/train.py", description=__doc__.split("\n")[0])
    parser.add_argument("--systems", default="bcresnet_asc_1_resnorm,bcresnet_asc_2_vanilla,bcresnet_asc_8_resnorm,"
                        "bcresnet_8", help="names of configurations")
    parser.add_argument("--batch-size", type=int, default=16, help="clips per step")
    parser.add_argument("--rounds", type=int, default=7, help="number of steps; medians are printed")
    parser.add_argument("--threads", type=int, default=1, help="threads of each process")
    parser.add_argument("--distil", action="store_true", help="a step of distillation, with a teacher of the same size")
    arguments = parser.parse_args(argv)

    for system in arguments.systems.split(","):
        processes = {}
        for name in ("plain", "task1a"):
            ours, theirs = multiprocessing.Pipe()
            multiprocessing.get_context("spawn").Process(
                target=serve, args=(theirs, system, name, arguments.batch_size, arguments.threads, arguments.distil),
                daemon=True).start()
            processes[name] = ours
        outputs = {name: process.recv() for name, process in processes.items()}
        difference = (outputs["plain"] - outputs["task1a"]).abs().max().item()

        seconds: dict[str, list[float]] = {name: [] for name in processes}
        for _ in range(arguments.rounds):
            for name, process in processes.items():
                process.send("step")
                seconds[name].append(process.recv())
        medians = {name: median(values[1:] or values) for name, values in seconds.items()}
        peaks = {}
        for name, process in processes.items():
            process.send("end")
            peaks[name], operators = process.recv()

        what = "distillation, " if arguments.distil else ""
        print(f"{system}, {what}batch of {arguments.batch_size}, {arguments.threads} thread(s), largest difference of "
              f"logits {difference:.1e}")
        for name in processes:
            print(f"  {name:<8} {medians[name]:8.3f} s a step {peaks[name] / 1e6:9,.0f} MB")
        print(f"  plain / task1a: {medians['plain'] / medians['task1a']:.2f} in time, "
              f"{peaks['plain'] / peaks['task1a']:.2f} in memory\n{operators}\n", flush=True)
    return 0


def serve(pipe: Connection, system: str, name: str, batch_size: int, threads: int, distil: bool) -> None:
    """Train a network, one step for each message, and send the time; at the end, the peak memory
    and the operators."""
    torch.set_num_threads(threads)
    if name == "plain":
        make_plain()
    else:
        keep_freed_memory()
    settings = config_file.load(SYSTEMS / f"{system}.yaml")
    spec = ModelSpec(settings.model, settings.features, LABELS)
    torch.manual_seed(0)
    model = spec.build()
    if name == "plain":
        for layer in model.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
    clips = torch.randn(batch_size, *spec.input_shape)
    targets = torch.randint(0, len(LABELS), (batch_size,))
    with torch.no_grad():
        pipe.send(model.eval()(clips[:2]))
    teaching = copy.deepcopy(model)
    if name != "plain":
        teaching = inference_form(fold_batch_norms(teaching, spec.input_shape), spec.input_shape)
    teacher = Teacher([teaching], temperature=2.0)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3)

    def step() -> None:
        outputs = model(clips)
        loss = F.cross_entropy(outputs, targets)
        if distil:
            probabilities = F.one_hot(targets, len(LABELS)).float()
            loss = distillation_loss(outputs, probabilities, teacher(clips), 2.0, (0.5, 0.5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    while pipe.recv() == "step":
        started = time.process_time()
        step()
        pipe.send(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    operators = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=OPERATORS,
                                              max_name_column_width=36)
    pipe.send((peak, operators))


def make_plain() -> None:
    """Replace what this project has written for speed by torch's modules and the equations of the
    papers."""
    def residual_norm(x: torch.Tensor, shortcut: float, eps: float) -> torch.Tensor:
        mean = x.mean(dim=(1, 3), keepdim=True)
        variance = x.var(dim=(1, 3), correction=0, keepdim=True)
        return shortcut * x + (x - mean) / torch.sqrt(variance + eps)

    def forward(block: bcresnet.BCResBlock, x: torch.Tensor) -> torch.Tensor:
        y = x if block.expand is None else block.expand(x)
        y = block.frequency_norm(block.frequency_conv(y))
        z = block.time_norm(block.time_conv(y.mean(dim=2, keepdim=True)))
        y = y + block.dropout(block.mix(F.silu(z)))
        return F.relu(y + x if block.expand is None else y)

    kernels.applies = lambda x: False
    normalization.residual_norm = residual_norm
    bcresnet.BCResBlock.forward = forward


if __name__ == "__main__":
    sys.exit(run_command(main))
