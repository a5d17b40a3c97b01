"""Model files of any origin: type, shape and number of non-zero values of every stored tensor.

No file is trusted: nothing in a file is executed, no file outside its folder is opened, and time and memory have fixed
bounds. Bit widths come from the stored type; an unknown type is an error. A value counts as it is stored, so the zero
point of a quantized type is a non-zero value unless it is stored as 0.
"""
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from task1a.complexity.onnx_file import read_onnx
from task1a.complexity.tensors import MAX_AXES, TensorSize, count_non_zero, readable
from task1a.complexity.tflite_file import read_tflite
from task1a.complexity.torch_file import read_state_dict
from task1a.errors import InputError
from task1a.model_file import FORMAT, verified
from task1a.safetensors_file import opened, printable

MAX_FILE_BYTES = 1 << 30
"""Maximum size of a .safetensors file, which is read in blocks."""
MAX_PARSED_BYTES = 1 << 26
"""Maximum size of other files, which are held in memory: 500 times the limit of the challenge."""
MAX_TENSORS = 10_000
"""Maximum number of tensors in a file; the networks of the paper have a few hundred."""


def stored_tensors(path: Path) -> list[TensorSize]:
    """List every tensor of a model file, including step counters; values shared by several tensors are listed once.

    Raises:
        InputError: the file is missing, damaged, too large or not what its suffix says, its format is unknown or needs
            a package that is not installed, or a tensor has a type of unknown width.
    """
    path = Path(path)
    suffix = next((suffix for suffix in _READERS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise InputError(f"{path}: not a model file that can be counted; the formats are {', '.join(_READERS)}")
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    in_blocks = suffix == ".safetensors"
    size, max_size = path.stat().st_size, MAX_FILE_BYTES if in_blocks else MAX_PARSED_BYTES
    if size > max_size:
        raise InputError(f"{path}: {size:,} B are too large to be counted; the maximum is {max_size:,} B"
                         f"{'' if in_blocks else '; save a larger model as .safetensors'}")

    sizes, stored_bytes = [], 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever is wrong is reported as an error
            for tensor in _READERS[suffix](path):
                stored_bytes += tensor.values * tensor.bits // 8
                if len(sizes) == MAX_TENSORS or len(tensor.shape) > MAX_AXES or stored_bytes > MAX_FILE_BYTES:
                    raise InputError(f"{path}: too large to be counted; the maximum is {MAX_TENSORS:,} tensors of "
                                     f"{MAX_AXES} axes and {MAX_FILE_BYTES:,} B together")
                sizes.append(replace(tensor, name=printable(tensor.name)))
    except InputError as error:
        raise InputError(printable(str(error), 1000)) from None
    return sizes


def _read_safetensors(path: Path) -> Iterator[TensorSize]:
    with readable(path, "safetensors file"), opened(path) as stored:
        if FORMAT in stored.metadata:
            verified(stored)
        for name, entry in stored.tensors.items():
            non_zero = sum(count_non_zero(block, entry.dtype) for block in stored.blocks(name))
            width = entry.dtype.itemsize
            yield TensorSize(name, entry.shape, str(entry.dtype).removeprefix("torch."), 8 * width,
                             entry.size // width, non_zero)


_READERS: dict[str, Callable[[Path], Iterator[TensorSize]]] = {
    ".safetensors": _read_safetensors, ".safetensors.xz": _read_safetensors,
    ".pt": read_state_dict, ".pth": read_state_dict,
    ".onnx": read_onnx,
    ".tflite": read_tflite,
}
