"""Import of torchaudio that also works with a CPU build of torch.

torchaudio's wheels are linked against CUDA. With a CPU build of torch their native library does not
load, and the import raises OSError, although transforms and functionals are pure Python. Importing
``torchaudio`` from this module then replaces the module that loads the library.
"""
import importlib
import sys
from collections.abc import Callable
from types import ModuleType


def import_torchaudio() -> ModuleType:
    """Import torchaudio, without its native functions (alignment, CUDA decoder) if they do not
    load."""
    try:
        return importlib.import_module("torchaudio")
    except OSError:
        sys.modules["torchaudio._extension"] = without_extension()
        return importlib.import_module("torchaudio")


def without_extension() -> ModuleType:
    """Return a module in the place of the one that loads torchaudio's native library."""
    def fail(function: Callable[..., object]) -> Callable[..., object]:
        def unavailable(*args: object, **kwargs: object) -> None:
            raise RuntimeError(f"torchaudio.functional.{function.__name__} needs torchaudio's native "
                               "library, which does not load with this build of torch")
        return unavailable

    module = ModuleType("torchaudio._extension")
    vars(module).update(_IS_TORCHAUDIO_EXT_AVAILABLE=False, fail_if_no_align=fail)
    return module


torchaudio = import_torchaudio()
