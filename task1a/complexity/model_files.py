"""Model files of any origin: type, shape and number of non-zero values of every stored tensor.

No file is trusted: nothing in a file is executed, no file outside its folder is opened, and time
and memory have fixed bounds. Bit widths come from the stored type; an unknown type is an error.
Stored codes are counted: a quantized zero whose code is 128 is a non-zero value.
"""
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import psutil

from task1a.complexity.tensors import TYPES, TensorSize, count_non_zero, readable
from task1a.errors import InputError
from task1a.safetensors_file import opened, printable

MAX_FILE_BYTES = 1 << 30
"""Maximum size of a .safetensors file and of a PyTorch file, and of the tensors of any file
together."""
MAX_PARSED_BYTES = 1 << 26
"""Maximum size of other files, which are held in memory: 500 times the limit of the challenge."""
MAX_TENSORS = 10_000
"""Maximum number of tensors in a file; the networks of the paper have a few hundred."""
MAX_SECONDS = 5.0
"""Maximum processor time for a file of another format than safetensors."""
MAX_MEMORY = 400_000_000
"""Maximum memory for such a file, with that of the libraries, in bytes."""

_MAX_AXES = 64  # as in numpy
_TORCH = (".pt", ".pth", ".ckpt", ".bin")
# module, function that reads the format, and the extra that installs the package it needs
_READERS = {
    **dict.fromkeys((".safetensors", ".safetensors.xz"), ("model_files", "read_safetensors", "")),
    **dict.fromkeys(_TORCH, ("torch_file", "read_state_dict", "")),
    ".onnx": ("onnx_file", "read_onnx", "onnx"), ".tflite": ("tflite_file", "read_tflite", "tflite"),
    ".h5": ("keras_file", "read_keras", "keras"), ".keras": ("keras_file", "read_keras", "keras"),
}
# what computes features in models with torchaudio, torchlibrosa or nnAudio inside
_FEATURES = re.compile(r"(.*\.)?(spectrogram\.window|mel_scale\.fb|stft\.(conv_(real|imag)\.weight|w(sin|cos))|melW|"
                       r"mel_basis)")


def stored_tensors(path: Path, key: str | None = None) -> list[TensorSize]:
    """List every tensor of a model file; values shared by several tensors are listed once.

    Tensors that are no part of the model, such as features inside it, are marked as excluded. A
    file of another format than safetensors is read in a process of its own, whose time and memory
    are limited.

    Args:
        path: model file.
        key: of several models in a PyTorch checkpoint, the one to list.

    Raises:
        InputError: the file is missing, damaged, too large or not what its suffix says, or holds no
            tensor, or several models but none of the name ``key``; its format is unknown or needs a
            package that is not installed; or a tensor has a type of unknown width.
    """
    path = Path(path)
    suffix = _suffix(path)
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    if key and suffix not in _TORCH:
        raise InputError(f"{path}: --key {key}: only a PyTorch checkpoint ({', '.join(_TORCH)}) holds several models")
    large = suffix == ".safetensors" or suffix in _TORCH
    size, max_size = path.stat().st_size, MAX_FILE_BYTES if large else MAX_PARSED_BYTES
    if size > max_size:
        raise InputError(f"{path}: {size:,} B are too large to be counted; the maximum is {max_size:,} B"
                         f"{'' if large else '; save a larger model as .safetensors'}")
    return read_tensors(path) if suffix.startswith(".safetensors") else _read_apart(path, key)


def read_tensors(path: Path, key: str | None = None) -> list[TensorSize]:
    """List the tensors of a model file like :func:`stored_tensors`, in this process and without its
    limits."""
    module, function, extra = _READERS[_suffix(path)]
    try:
        read = getattr(import_module(f"task1a.complexity.{module}"), function)
    except ImportError as error:
        raise InputError(f"{path}: the package {error.name} is needed to read it: pip install -e '.[{extra}]'"
                         ) from None
    sizes: list[TensorSize] = []
    stored_bytes = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever is wrong is reported as an error
            for tensor in read(path, key):
                stored_bytes += tensor.values * tensor.bits // 8
                if len(sizes) == MAX_TENSORS or len(tensor.shape) > _MAX_AXES or stored_bytes > MAX_FILE_BYTES:
                    raise InputError(f"{path}: too large to be counted; the maximum is {MAX_TENSORS:,} tensors of "
                                     f"{_MAX_AXES} axes and {MAX_FILE_BYTES:,} B together")
                sizes.append(replace(tensor, name=printable(tensor.name)))
    except InputError as error:
        raise InputError(printable(str(error), 1000)) from None

    # Features inside a model do not count, nor does what torch's batch norms count their steps
    # with. A kernel belongs to torchaudio's Resample if it is next to a MelSpectrogram in one
    # nn.Sequential.
    names = {tensor.name for tensor in sizes}
    sequences = {re.sub(r"\d+\.mel_scale\.fb$", "", name) for name in names if name.endswith("mel_scale.fb")}
    for index, tensor in enumerate(sizes):
        resampler = re.fullmatch(r"(.*\.|)\d\.kernel", tensor.name)
        norm = tensor.name.removesuffix("num_batches_tracked")
        if _FEATURES.fullmatch(tensor.name) or resampler and resampler[1] in sequences:
            sizes[index] = replace(tensor, excluded="features")
        elif (norm != tensor.name and f"{norm}running_mean" in names and tensor.dtype == "int64"
              and tensor.values == 1):
            sizes[index] = replace(tensor, excluded="step counters (num_batches_tracked)")
    if all(tensor.excluded for tensor in sizes):
        raise InputError(f"{path}: holds no tensor that counts; is it the file of the model?")
    return sizes


def read_safetensors(path: Path, key: None = None) -> Iterator[TensorSize]:
    """Yield the tensors of a safetensors file; one of this project is checked completely."""
    from task1a.model_file import FORMAT, verify

    with readable(path, "safetensors file"), opened(path) as stored:
        if FORMAT in stored.metadata:
            verify(stored)
        for name, entry in stored.tensors.items():
            non_zero = sum(count_non_zero(block, entry.dtype) for block in stored.blocks(name))
            bits = TYPES[entry.dtype]
            yield TensorSize(name, entry.shape, entry.dtype, bits, 8 * entry.size // bits, non_zero)


def _suffix(path: Path) -> str:
    for suffix in _READERS:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(f"{path}: not a model file that can be counted; the formats are {', '.join(_READERS)}")


def _read_apart(path: Path, key: str | None) -> list[TensorSize]:
    """Run :func:`read_tensors` in a process of its own, and end it when it takes too much time or
    memory."""
    code = f"import sys; from {__name__} import _main; _main(*sys.argv[1:])"
    command = [sys.executable, "-c", code, os.getcwd(), str(path), key or ""]
    # The answer goes to a file, because a pipe would block when it is full. Time and memory are
    # looked at from here, on every system alike; limits set in the child would count the address
    # space that its libraries reserve.
    with tempfile.TemporaryFile() as answer:
        # not in the current folder, from which it would import modules
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2], stdin=subprocess.DEVNULL, stdout=answer,
                                 stderr=subprocess.DEVNULL)
        started = None
        try:
            process = psutil.Process(child.pid)
            while child.poll() is None:
                used, seconds = process.memory_info(), sum(process.cpu_times()[:2])
                # the libraries are imported
                if started is None and os.fstat(answer.fileno()).st_size:
                    started = seconds
                # without the pages of the file itself, where the system tells them apart
                memory = getattr(used, "private", used.rss - getattr(used, "shared", 0))
                if memory > MAX_MEMORY or started is not None and seconds - started > MAX_SECONDS:
                    raise InputError(f"{path}: takes more than {MAX_SECONDS:g} s or {MAX_MEMORY:,} B of memory to "
                                     "read; save only the tensors of the model")
                time.sleep(0.02)
        except psutil.NoSuchProcess:  # it has just ended
            pass
        finally:
            child.kill()
            child.wait()
        answer.seek(0)
        try:
            found = json.loads(answer.read())
        except ValueError:
            raise InputError(f"{path}: damaged; the process that read it ended with status {child.returncode}"
                             ) from None
    if "error" in found:
        raise InputError(found["error"])
    sizes = []
    for tensor in found["tensors"]:
        sizes.append(TensorSize(**{**tensor, "shape": tuple(tensor["shape"])}))
    return sizes


def _main(folder: str, path: str, key: str) -> None:
    """Print the tensors of a file as JSON, after a line end once the libraries are imported."""
    with contextlib.suppress(ImportError):  # which read_tensors reports
        import_module(f"task1a.complexity.{_READERS[_suffix(Path(path))][0]}")
    os.chdir(folder)
    print(flush=True)
    try:
        found = json.dumps({"tensors": [asdict(tensor) for tensor in read_tensors(Path(path), key or None)]})
    except InputError as error:
        found = json.dumps({"error": str(error)})
    print(found)
