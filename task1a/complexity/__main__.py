"""``python -m task1a.complexity MODEL [MODEL...] [--json]``: print the size of a model.

Exit status 1 means that the model is over the limit.
"""
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from task1a.challenge import size_verdict
from task1a.complexity.measure import measure
from task1a.errors import CommandParser, InputError, run_command
from task1a.pipeline.run import Run, model_of
from task1a.system import System

_TENSOR_ROW = "  {:<16} {:>8} {:>10} {:>10} {:>10}"
_TOTAL_ROW = "{:<12} {:>12} {:>12} {:>12} {:>12} {:>12}"


def format_report(complexity: Mapping[str, Any]) -> str:
    """Format the tensors of every file, the totals by policy and bit width, the files, and the verdict."""
    models, lines = complexity["models"], []
    for index, model in enumerate(models):
        tensors = [tensor for tensor in complexity["tensors"] if tensor["model"] == index]
        width = max((len(tensor["name"]) for tensor in tensors), default=6)
        if len(models) > 1:
            lines.append(f"model {index + 1}: {model['file']}")
        lines.append("tensor".ljust(width) + _TENSOR_ROW.format("shape", "type", "values", "non-zero", "bytes"))
        for tensor in tensors:
            shape = " x ".join(map(str, tensor["shape"])) or "scalar"
            lines.append(tensor["name"].ljust(width) + _TENSOR_ROW.format(
                shape, tensor["dtype"], tensor["values"], tensor["non_zero"], tensor["bytes"]))
        lines.append("")

    lines.append(_TOTAL_ROW.format("policy", "values", "non-zero", "B", "kB", "KiB"))
    for policy, total in complexity["policies"].items():
        rows = [(policy, total)]
        for bits, part in total["by_bits"].items():
            rows.append((f"  {bits} bit", part))
        for name, row in rows:
            lines.append(_TOTAL_ROW.format(name, f"{row['parameters']:,}", f"{row['non_zero']:,}",
                                           f"{row['bytes']:,}", f"{row['kB']:.2f}", f"{row['KiB']:.2f}"))
    lines.append("")

    for index, model in enumerate(models):
        counted = sum(tensor["bytes"] for tensor in complexity["tensors"] if tensor["model"] == index)
        xz = f" ({model['xz_bytes']:,} B as {model['file']}.xz)" if model["xz_bytes"] else ""
        lines.append(f"{model['file']}: {model['file_bytes']:,} B on disk{xz}, {counted:,} B counted")
        for reason, total in model["excluded"].items():
            lines.append(f"  not counted: {reason}, {total['parameters']:,} values, {total['bytes']:,} B")
        if model["device_models"]:
            sizes = ", ".join(f"{device} {size:,} B" for device, size in model["device_models"].items())
            lines.append(f"  models by device, of which the largest is counted: {sizes}")
        if model["multiply_accumulates"] is not None:
            shape = " x ".join(map(str, model["input_shape"]))
            lines.append(f"multiply-accumulates for an input of {shape}: {model['multiply_accumulates']:,}")
    if len(models) > 1 and complexity["multiply_accumulates"] is not None:
        lines.append(f"multiply-accumulates together: {complexity['multiply_accumulates']:,}")
    lines.append(f"size under {complexity['limit_policy']}: {size_verdict(complexity)}")
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the size of a model; returns 1 if it is over the limit.

    Raises:
        InputError: a file is missing or cannot be counted.
    """
    parser = CommandParser(prog="python -m task1a.complexity", description="Size of a model as the challenge counts "
                           "it, compared with the limit.")
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+",
                        help="run folder, or model file: .safetensors, of a run or from elsewhere, .pt, .pth, .ckpt or "
                             ".bin (PyTorch), .onnx, .tflite, .h5 or .keras; several files are an ensemble")
    parser.add_argument("--key", metavar="KEY", help="of several models in a PyTorch checkpoint, the one to count, "
                        "e.g. student")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    arguments = parser.parse_args(argv)
    first = arguments.models[0]
    if len(arguments.models) == 1 and (first / "config.yaml").is_file():
        system = Run(first).system
    else:
        files = tuple(model_of(path) for path in arguments.models)
        system = System(files, (1,) * len(files))
    for path in system.files:
        if not path.is_file():
            raise InputError(f"{path}: no such model file")
    complexity = measure(system.files, system.passes, system.by_device, key=arguments.key)
    print(json.dumps(complexity, indent=1) if arguments.json else format_report(complexity), end="")
    return 0 if complexity["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
