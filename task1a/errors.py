"""Errors that a user can correct, in one line each, and the exit status of every command."""
import argparse
import os
import reprlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn


class InputError(Exception):
    """An input is wrong. The message is one line: what is wrong, where, and what to do."""


class FallsShort(Exception):
    """The result falls short of what is required, e.g. the model is too large. The message is one line."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that reports wrong arguments in one line."""

    def __init__(self, **settings: object) -> None:
        super().__init__(**settings)
        self.add_argument("--debug", action="store_true", help="print the traceback of an unexpected error")

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage and exiting."""
        raise InputError(f"{message}; see {self.prog} --help")


def run_command(main: Callable[[], int]) -> int:
    """Run a command's ``main``, report its errors in one line, and return the exit status.

    Returns:
        The status of ``main`` (0: success; 1: the result falls short), 1 after :class:`FallsShort`, 2 after an input or
        system error, 3 after an unexpected exception, whose traceback is written to a file, 130 after Ctrl-C, 141 if
        the reader of a pipe has ended.
    """
    try:
        return main()
    except BrokenPipeError:  # whoever read the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FallsShort as error:
        print(f"falls short: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        activity = getattr(error, "activity", "this command")
        if _out_of_memory(error):
            print(f"error: {activity} ran out of memory; lower the batch size, or use a smaller model or a larger "
                  "machine", file=sys.stderr)
            return 2
        print(f"unexpected error in {activity}: {_summary(error)}", file=sys.stderr)
        return 3


@contextmanager
def during(activity: str) -> Iterator[None]:
    """Name the current activity for the report of an unexpected exception."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "activity"):
            error.activity = activity
        raise


def shown(value: object) -> str:
    """Format a value for a message: its ``repr``, shortened if it is long or deeply nested."""
    return _short.repr(value)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of many digits
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length():,} bits"


_short = _Short()
_short.maxstring = _short.maxother = 200


def _out_of_memory(error: Exception) -> bool:
    # torch raises a class of its own for a GPU, and a RuntimeError for the CPU
    return (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
            or "can't allocate memory" in str(error))


def _summary(error: Exception) -> str:
    """One line about an unexpected exception, with the path of its traceback."""
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if "--debug" in sys.argv:
        traceback.print_exc()
        return f"{said}; this is a defect of task1a, please report it with the traceback above"
    with tempfile.NamedTemporaryFile("w", prefix="task1a-", suffix=".txt", delete=False, encoding="utf-8",
                                     errors="backslashreplace") as report:
        report.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
    return (f"{said}; this is a defect of task1a, please report it with the traceback in {report.name} "
            "(--debug prints it)")
