"""The size of a model as the challenge counts it: non-zero values times the bytes of their stored type.

``python -m task1a.complexity MODEL [MODEL...] [--json]``: exit status 1 where the model is over the limit. Models of
any maker are counted (``task1a.tensor_files``); several are an ensemble, whose sizes add up.

Policies
--------
``dcase2021``: everything that is stored, running mean and variance of batch norms included, as the organisers'
model-size tool counts (DCASE 2021 Task 1A baseline). The limit is judged by this one.
``paper``: without running mean and variance, as the size that is published for BC-ResNet-ASC counts (arXiv 2206.13909).

Scales of quantized tensors count. Indices of sparse storage and the features do not, by the rules of the challenge.
Sizes are given in bytes, in kB of 1,000 and in KiB of 1,024 bytes, for the rules write "KB" where their tool divides by
1,024.
"""
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from task1a.challenge import LIMIT_BYTES, WARN_ABOVE_BYTES, size_verdict
from task1a.errors import CommandParser, run_command
from task1a.model_file import stated_spec
from task1a.safetensors_file import printable
from task1a.tensor_files import TensorSize, stored_tensors

LIMIT_POLICY = "dcase2021"


def totals(tensors: Iterable[TensorSize]) -> dict[str, float]:
    """Values (``parameters``), ``non_zero`` values and size in ``bytes``, ``kB`` and ``KiB``."""
    tensors = list(tensors)
    size = sum(tensor.bytes for tensor in tensors)
    return {"parameters": sum(tensor.values for tensor in tensors),
            "non_zero": sum(tensor.non_zero for tensor in tensors),
            "bytes": size, "kB": size / 1000, "KiB": size / 1024}


def measure(paths: Sequence[Path]) -> dict[str, Any]:
    """Everything counted over the files of a model, one or those of an ensemble: the content of ``complexity.json``.

    Multiply-accumulates, trainable parameters and the shape of the input are known for model files of this project,
    else None.

    Raises:
        InputError: a file is none that can be counted, is damaged, or holds a tensor of a type of unknown width.
    """
    files, counted = [], []
    for path in map(Path, paths):
        stored = stored_tensors(path)
        kept = [tensor for tensor in stored if not tensor.step_counter]
        small = path.with_name(path.name + ".xz")
        files.append({"file": printable(path.name), "file_bytes": path.stat().st_size,
                      "xz_bytes": small.stat().st_size if small.is_file() else None, **_arithmetic(path),
                      "left_out": len(stored) - len(kept)})
        counted.append(kept)
    tensors = [tensor for kept in counted for tensor in kept]
    policies = {"dcase2021": _by_bits(tensors), "paper": _by_bits(t for t in tensors if not t.statistics)}
    return {
        "models": files,
        "policies": policies,
        "multiply_accumulates": _sum(files, "multiply_accumulates"),
        "trainable_parameters": _sum(files, "trainable_parameters"),
        "limit_bytes": LIMIT_BYTES,
        "warning_bytes": WARN_ABOVE_BYTES,
        "limit_policy": LIMIT_POLICY,
        "within_limit": policies[LIMIT_POLICY]["bytes"] <= LIMIT_BYTES,
        "tensors": [{"model": model, **asdict(t), "shape": list(t.shape), "bytes": t.bytes, "statistics": t.statistics}
                    for model, kept in enumerate(counted) for t in kept],
    }


def _sum(files: Iterable[Mapping[str, Any]], key: str) -> int | None:
    values = [file[key] for file in files]
    return None if None in values else sum(values)


def _by_bits(tensors: Iterable[TensorSize]) -> dict[str, Any]:
    """Totals, and under ``by_bits`` those of the tensors of each width."""
    tensors = list(tensors)
    return {**totals(tensors), "by_bits": {str(bits): totals(t for t in tensors if t.bits == bits)
                                           for bits in sorted({t.bits for t in tensors})}}


def _arithmetic(path: Path) -> dict[str, Any]:
    """What is known of the network and its input, where the file tells its architecture."""
    own = path.name.lower().endswith((".safetensors", ".safetensors.xz"))
    spec = stated_spec(path) if own else None
    if spec is None:
        return {"multiply_accumulates": None, "trainable_parameters": None, "input_shape": None}
    return {"multiply_accumulates": spec.multiply_accumulates(), "trainable_parameters": spec.trainable_parameters(),
            "input_shape": list(spec.input_shape)}


def format_report(complexity: Mapping[str, Any]) -> str:
    """The tables of tensors, the totals by policy and bit width, the files, and the verdict, as text."""
    text = ""
    for index, model in enumerate(complexity["models"]):
        tensors = [tensor for tensor in complexity["tensors"] if tensor["model"] == index]
        title = f"model {index + 1}: {model['file']}\n" if len(complexity["models"]) > 1 else ""
        text += f"{title}{_table(tensors)}\n"
    row = "{:<12} {:>12} {:>12} {:>12} {:>12} {:>12}\n"
    text += row.format("policy", "values", "non-zero", "B", "kB", "KiB")
    for policy, total in complexity["policies"].items():
        for name, part in {policy: total, **{f"  {bits} bit": part for bits, part in total["by_bits"].items()}}.items():
            text += row.format(name, f"{part['parameters']:,}", f"{part['non_zero']:,}", f"{part['bytes']:,}",
                               f"{part['kB']:.2f}", f"{part['KiB']:.2f}")
    text += "\n"
    for index, model in enumerate(complexity["models"]):
        counted = sum(tensor["bytes"] for tensor in complexity["tensors"] if tensor["model"] == index)
        text += _file_line(model, counted)
    if len(complexity["models"]) > 1 and complexity["multiply_accumulates"] is not None:
        text += f"multiply-accumulates together: {complexity['multiply_accumulates']:,}\n"
    return f"{text}size under {complexity['limit_policy']}: {size_verdict(complexity)}\n"


def _table(tensors: Sequence[Mapping[str, Any]]) -> str:
    width = max((len(tensor["name"]) for tensor in tensors), default=6)
    row = "  {:<16} {:>8} {:>10} {:>10} {:>10}\n"
    text = "tensor".ljust(width) + row.format("shape", "type", "values", "non-zero", "bytes")
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"])) or "scalar"
        numbers = (tensor[key] for key in ("dtype", "values", "non_zero", "bytes"))
        text += tensor["name"].ljust(width) + row.format(shape, *numbers)
    return text


def _file_line(model: Mapping[str, Any], counted: int) -> str:
    """Sizes of one file on disk and as counted, and what is known of it beside its tensors."""
    small = f" ({model['xz_bytes']:,} B as {model['file']}.xz)" if model["xz_bytes"] else ""
    text = f"{model['file']}: {model['file_bytes']:,} B on disk{small}, {counted:,} B counted"
    if model["left_out"]:
        text += f", step counters (num_batches_tracked) left out: {model['left_out']}"
    if model["multiply_accumulates"] is not None:
        shape = " x ".join(map(str, model["input_shape"]))
        text += f"\nmultiply-accumulates for an input of {shape}: {model['multiply_accumulates']:,}"
    return f"{text}\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the size of a model; returns 1 where it is over the limit."""
    parser = CommandParser(prog="python -m task1a.complexity", description="The size of a model as the "
                           "challenge counts it, against the limit.")
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+", help="a model file: .safetensors, as a run "
                        "leaves it in train/, or from elsewhere, .pt or .pth (a state dictionary), .onnx, .tflite; "
                        "several are an ensemble")
    parser.add_argument("--json", action="store_true", help="print everything counted as JSON instead of the table")
    arguments = parser.parse_args(argv)
    complexity = measure(arguments.models)
    print(json.dumps(complexity, indent=1) if arguments.json else format_report(complexity), end="")
    return 0 if complexity["within_limit"] else 1


if __name__ == "__main__":
    sys.exit(run_command(main))
