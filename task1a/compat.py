"""torchaudio, also beside a build of torch that its native library does not fit.

torchaudio's wheels are linked against CUDA; beside a CPU build of torch their library does not load and the import ends
in an OSError, though the transforms and functionals are pure Python. ``from task1a.compat import torchaudio`` gives
the package either way: a stand-in takes the place of the part that loads the library, only where that part fails.
"""
import importlib
import sys
from collections.abc import Callable
from types import ModuleType


def import_torchaudio() -> ModuleType:
    """The torchaudio package; without its native parts (forced alignment, CUDA decoder) where they do not load."""
    try:
        return importlib.import_module("torchaudio")
    except OSError:
        sys.modules["torchaudio._extension"] = _without_extension()
        return importlib.import_module("torchaudio")


def _without_extension() -> ModuleType:
    module = ModuleType("torchaudio._extension", "Stands in for torchaudio's native library, which did not load.")
    module._IS_TORCHAUDIO_EXT_AVAILABLE = False
    module.fail_if_no_align = _fail
    return module


def _fail(function: Callable) -> Callable:
    def unavailable(*args: object, **kwargs: object) -> None:
        raise RuntimeError(f"torchaudio.functional.{function.__name__} needs torchaudio's native library, "
                           "which does not load beside this build of torch")
    return unavailable


torchaudio = import_torchaudio()
