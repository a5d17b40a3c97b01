"""The size of a model as the challenge counts it: non-zero values times the bytes of their stored type.

``python -m task1a.complexity MODEL [--json]``: exit status 1 where the model is over the limit.

Policies
--------
``dcase2021``: every tensor that a layer stores, running mean and variance of batch norms included, as the organisers'
model-size tool counts (DCASE 2021 Task 1A baseline). The limit is judged by this one.
``paper``: parameters only, as the size that is published for BC-ResNet-ASC counts (arXiv 2206.13909).

Indices of sparse storage and the features are not counted, by the rules of the challenge. Sizes are given in bytes, in
kB of 1,000 and in KiB of 1,024 bytes, for the rules write "KB" where their tool divides by 1,024.
"""
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from submission.rules import TASK1A_2021
from task1a import models
from task1a.errors import CommandParser, run_command
from task1a.model_file import read_spec, read_tensors

LIMIT_POLICY = "dcase2021"
_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class TensorSize:
    """One stored tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    values: int
    non_zero: int
    statistics: bool
    """running mean or variance of a batch norm"""

    @property
    def bytes(self) -> int:
        """Of the non-zero values."""
        return self.non_zero * self.bits // 8


def stored_tensors(path: Path) -> list[TensorSize]:
    """Every tensor of a model file, in the order of their names."""
    return [TensorSize(name=name, shape=tuple(value.shape), dtype=str(value.dtype).removeprefix("torch."),
                       bits=8 * value.element_size(), values=value.numel(), non_zero=int(value.count_nonzero()),
                       statistics=name.endswith(_STATISTICS))
            for name, value in read_tensors(path).items()]


def totals(tensors: Iterable[TensorSize]) -> dict[str, float]:
    """Values (``parameters``), ``non_zero`` values and size in ``bytes``, ``kB`` and ``KiB``."""
    tensors = list(tensors)
    size = sum(tensor.bytes for tensor in tensors)
    return {"parameters": sum(tensor.values for tensor in tensors),
            "non_zero": sum(tensor.non_zero for tensor in tensors),
            "bytes": size, "kB": size / 1000, "KiB": size / 1024}


def measure(path: Path) -> dict[str, Any]:
    """Everything counted over a model file: the content of ``complexity.json``.

    Raises:
        InputError: the file is not a model file of this project, or is damaged.
    """
    spec, tensors = read_spec(path), stored_tensors(path)
    policies = {"dcase2021": totals(tensors), "paper": totals(t for t in tensors if not t.statistics)}
    by_bits = {str(bits): totals(t for t in tensors if t.bits == bits) for bits in sorted({t.bits for t in tensors})}
    return {
        "model": Path(path).name,
        "policies": policies,
        "by_bits": by_bits,
        "multiply_accumulates": models.multiply_accumulates(spec.build(), spec.input_shape),
        "input_shape": list(spec.input_shape),
        "limit_bytes": TASK1A_2021.limit_bytes,
        "warning_bytes": TASK1A_2021.warning_bytes,
        "limit_policy": LIMIT_POLICY,
        "within_limit": policies[LIMIT_POLICY]["bytes"] <= TASK1A_2021.limit_bytes,
        "tensors": [{**asdict(t), "shape": list(t.shape), "bytes": t.bytes} for t in tensors],
    }


def verdict(complexity: Mapping[str, Any]) -> str:
    """One line: the size against the limit."""
    size, limit = complexity["policies"][complexity["limit_policy"]], complexity["limit_bytes"]
    line = f"{size['bytes']:,} B ({size['kB']:.2f} kB, {size['KiB']:.2f} KiB) of {limit:,} B"
    if not complexity["within_limit"]:
        return f"{line}: over the limit by {size['bytes'] - limit:,} B"
    if size["bytes"] > complexity["warning_bytes"]:
        return f"{line}: within the limit, but above {complexity['warning_bytes']:,} B, which is how some read 128 KB"
    return f"{line}: within the limit"


def format_report(complexity: Mapping[str, Any]) -> str:
    """The table of tensors, the totals by policy and by bit width, and the verdict, as text."""
    width = max(len(tensor["name"]) for tensor in complexity["tensors"])
    row = "  {:<16} {:>8} {:>10} {:>10} {:>10}\n"
    text = "tensor".ljust(width) + row.format("shape", "type", "values", "non-zero", "bytes")
    for tensor in complexity["tensors"]:
        shape = " x ".join(map(str, tensor["shape"])) or "scalar"
        numbers = (tensor[key] for key in ("dtype", "values", "non_zero", "bytes"))
        text += tensor["name"].ljust(width) + row.format(shape, *numbers)
    sums = "{:<24} {:>12} {:>12} {:>12} {:>12} {:>12}\n"
    text += "\n" + sums.format("policy", "values", "non-zero", "B", "kB", "KiB")
    bits = {f"  {bits} bit": total for bits, total in complexity["by_bits"].items()}
    for name, total in {**complexity["policies"], **bits}.items():
        text += sums.format(name, f"{total['parameters']:,}", f"{total['non_zero']:,}", f"{total['bytes']:,}",
                            f"{total['kB']:.2f}", f"{total['KiB']:.2f}")
    shape = " x ".join(map(str, complexity["input_shape"]))
    text += f"\nmultiply-accumulates for an input of {shape}: {complexity['multiply_accumulates']:,}\n"
    return f"{text}size under {complexity['limit_policy']}: {verdict(complexity)}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the size of a model; returns 1 where it is over the limit."""
    parser = CommandParser(prog="python -m task1a.complexity", description="The size of a model as the "
                           "challenge counts it, against the limit.")
    parser.add_argument("model", metavar="MODEL", type=Path, help="a model file, e.g. train/model.safetensors of a run")
    parser.add_argument("--json", action="store_true", help="print everything counted as JSON instead of the table")
    arguments = parser.parse_args(argv)
    complexity = measure(arguments.model)
    print(json.dumps(complexity, indent=1) if arguments.json else format_report(complexity), end="")
    return 0 if complexity["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
