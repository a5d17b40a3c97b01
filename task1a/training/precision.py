"""The choice of precision and memory format by a short measurement: ``training.precision=auto``.

bfloat16 and the channels-last format are several times as fast as contiguous float32 on some machines and many times as
slow on others, and it depends on the network, too. So steps of the network are timed on the machine at hand.
"""
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from task1a.errors import InputError
from task1a.files import read_json, write_json
from task1a.model_file import ModelSpec
from task1a.training.fit import Job, launch

CANDIDATES = {
    "32-true contiguous": {"precision": "32-true", "channels_last": False},
    "32-true channels_last": {"precision": "32-true", "channels_last": True},
    "bf16-mixed contiguous": {"precision": "bf16-mixed", "channels_last": False},
    "bf16-mixed channels_last": {"precision": "bf16-mixed", "channels_last": True},
}
"""settings of :class:`task1a.config.TrainingConfig` that are compared"""

REFERENCE = "32-true contiguous"
"""chosen unless another candidate takes at most :data:`WORTHWHILE` of its time"""

WORTHWHILE = 0.9

CLIPS_ON_CPU = 8
"""number of clips in a step on a CPU, where the time grows in proportion"""

ROUNDS = 3

HOPELESS_SECONDS, HOPELESS_RATIO = 3.0, 3.0
"""a candidate is dropped after its first step if that takes longer than this and this many times that of the fastest; a
shorter first step may have spent its time on setting up the device"""


def resolved(job: Job) -> Job:
    """Replace ``training.precision=auto`` by the precision and memory format that are fastest on this machine.

    The choice is written to ``precision.json`` in the job's folder, with the seconds of each candidate. A resumed
    training uses it again, so that it computes the same numbers. Under torchrun rank 0 decides for all. The measurement
    uses the random generators; seed them afterwards.

    Returns:
        The job with the chosen settings; a job whose precision is given is returned as it is.

    Raises:
        InputError: ``precision.json`` is damaged.
    """
    if job.recipe.precision != "auto":
        return job
    fabric = launch(job.device, "32-true")  # joins the process group, through which rank 0 tells the others
    choice = None
    if fabric.global_rank == 0:
        path = job.folder / "precision.json"
        choice = _recorded(path, job.identity)
        if choice is None:
            on_cpu = fabric.device.type == "cpu"
            clips = min(job.recipe.batch_size, CLIPS_ON_CPU) if on_cpu else job.recipe.batch_size // fabric.world_size
            seconds = measure(job.spec, clips, fabric.device)
            torch.cuda.empty_cache()  # the memory of a GPU is divided up by what is free
            choice = fastest(seconds)
            write_json(path, {"identity": job.identity, "choice": choice, "seconds": seconds, "clips": clips})
            times = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
            job.report(f"precision: {choice} (a step of {clips} clips: {times})")
        else:
            job.report(f"precision: {choice}, as before")
    settings = CANDIDATES[fabric.broadcast(choice)]
    return replace(job, recipe=replace(job.recipe, **settings))


def fastest(seconds: Mapping[str, float]) -> str:
    """The candidate to use, given the seconds of those that the device can compute: the reference if in doubt."""
    name = min(seconds, key=seconds.__getitem__, default=REFERENCE)
    worthwhile = seconds and seconds[name] <= WORTHWHILE * seconds.get(REFERENCE, math.inf)
    return name if worthwhile else REFERENCE


def measure(spec: ModelSpec, clips: int, device: torch.device) -> dict[str, float]:
    """Seconds of a forward and backward pass of each candidate, in this process alone.

    Args:
        spec: the network.
        clips: number of clips in a step; they are random.
        device: where to compute.

    Returns:
        The median of :data:`ROUNDS` steps after a first one, or the time of the first step if that is hopeless. A
        candidate that the device does not support, or has too little memory for, is left out.
    """
    steps, seconds = {}, {}
    for name, settings in CANDIDATES.items():
        try:
            step = _step(spec, clips, device, **settings)
            seconds[name] = step()
        except RuntimeError:
            continue
        if seconds[name] <= max(HOPELESS_SECONDS, HOPELESS_RATIO * min(seconds.values())):
            steps[name] = step

    # the candidates take turns, so that other load on the machine falls on all of them
    rounds = [{name: step() for name, step in steps.items()} for _ in range(ROUNDS)]
    for name in steps:
        seconds[name] = median(times[name] for times in rounds)
    return seconds


def _step(spec: ModelSpec, clips: int, device: torch.device, precision: str,
          channels_last: bool) -> Callable[[], float]:
    """A function that makes a step with new weights and random clips, and returns its seconds."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    model = spec.build().to(device, memory_format=memory_format)
    x = torch.randn(clips, *spec.input_shape, device=device)
    targets = torch.randint(len(spec.labels), (clips,), device=device)

    def step() -> float:
        started = time.perf_counter()
        model.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):  # as Fabric does it
            outputs = model(x)
        F.cross_entropy(outputs.float(), targets).backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    return step


def _recorded(path: Path, identity: str) -> str | None:
    """The candidate that a training of this identity has used before."""
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        if record["identity"] != identity:
            return None
        choice = record["choice"]
        CANDIDATES[choice]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a record of the chosen precision; remove it to measure again") from None
    return choice
