"""Errors that a user can correct, in one line each, and the exit status of every command."""
import argparse
import os
import re
import reprlib
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

# control characters, line separators, and those that embed, override or isolate a direction of
# writing
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class InputError(Exception):
    """An input is wrong. The message is one line: what is wrong, where, and what to do; several
    faults are several arguments, with a line each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ModelError(InputError):
    """A model file is wrong, whatever it is given to predict."""


class FallsShort(Exception):
    """The result falls short of what is required, e.g. the model is too large. The message is one
    line."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that reports wrong arguments in one line."""

    program: str | None = None
    """name of the subcommand of ``task1a`` that runs, if one does"""
    example = ""
    """a complete call of that subcommand"""

    def __init__(self, **settings: Any) -> None:
        if self.program:
            settings["prog"] = self.program
            settings["epilog"] = f"Example: {self.example}. {settings.get('epilog') or ''}".rstrip()
        super().__init__(**settings)
        self.add_argument("--debug", action="store_true", help="print the traceback of an unexpected error")

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage and exiting."""
        raise InputError(f"{message}; see {self.prog} --help")


def run_command(main: Callable[[], int]) -> int:
    """Run a command's ``main``, report its errors in one line, and return the exit status.

    Standard streams that cannot show a character print an escape of it, and closed ones are opened
    on the null device. SIGTERM, with which batch systems announce the end, and SIGHUP end a command
    as Ctrl-C does.

    Returns:
        The status of ``main`` (0: success; 1: the result falls short), 1 after :class:`FallsShort`,
        2 after an input or system error, 3 after an unexpected exception, whose traceback is
        written to a file, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 141 if the reader
        of a pipe has ended.
    """
    _prepare_streams()
    try:
        with _interrupted_by_signals():
            status = main()
            # a full disk or a reader that has ended, such as head, shows here at the latest
            sys.stdout.flush()
        return status
    except BrokenPipeError:
        return 141
    except InputError as error:
        _report(f"error: {error.args[0]}", *error.args[1:])
        return 2
    except OSError as error:
        advice = "; set TMPDIR to a folder that can be written" if "temporary directory" in str(error) else ""
        _report(f"error: {error}{advice}")
        return 2
    except FallsShort as error:
        _report(f"falls short: {error}")
        return 1
    except KeyboardInterrupt as interrupt:
        number = interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT
        by = "" if number == signal.SIGINT else f" by {number.name}"
        _report(f"interrupted{by}; run the same command again to resume")
        return 128 + number
    except Exception as error:
        activity = getattr(error, "activity", "this command")
        # torch raises a class of its own for a GPU, and a RuntimeError for the CPU
        if (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
                or "can't allocate memory" in str(error)):
            _report(f"error: {activity} ran out of memory; lower the batch size, or use a smaller model or a larger "
                    "machine")
            return 2
        if isinstance(error, UnicodeEncodeError) and error.encoding == sys.getfilesystemencoding() != "utf-8":
            _report(f"error: {activity} needs a file name with {error.object[error.start:error.end]!a}, which this "
                    f"locale ({error.encoding}) cannot express; set PYTHONUTF8=1 in the environment and try again")
            return 2
        _report(f"unexpected error in {activity}: {_summary(error)}")
        return 3
    finally:
        # what is still in a buffer, e.g. after a full disk, is tried once more and then given up
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:  # or Python would try again when it exits, and change the status
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def printable(text: object) -> str:
    """Return text for a terminal or a log, in which undecodable bytes and control characters are
    escaped.

    Names of files can hold any byte but ``/`` and NUL: ``caf\\xe9.wav`` in Latin-1, escape
    sequences that clear a terminal, line ends. Characters that change the direction of the text
    after them are escaped, too.
    """
    text = str(text)
    try:
        content = text.encode("utf-8", "surrogateescape")  # the bytes that the system gave
    except UnicodeEncodeError:
        content = text.encode("utf-8", "backslashreplace")
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"),
                            content.decode("utf-8", "backslashreplace"))


class Terminated(KeyboardInterrupt):
    """The system asked the process to end."""

    def __init__(self, number: int, *_: object) -> None:
        self.number = signal.Signals(number)


def _prepare_streams() -> None:
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:  # or the next file to be opened would get the number of a standard stream
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
        stream = getattr(sys, name)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    def terminate(number: int, _: object) -> NoReturn:
        raise Terminated(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # Windows has one of them
            number = getattr(signal, name, None)
            # nohup lets a command ignore SIGHUP
            if number and signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, terminate)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(*lines: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)


@contextmanager
def during(activity: str) -> Iterator[None]:
    """Name the current activity for the report of an unexpected exception."""
    try:
        yield
    except Exception as error:
        if not hasattr(error, "activity"):
            vars(error)["activity"] = activity
        raise


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a number of things; ``plural`` is given if it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def shown(value: object) -> str:
    """Format a value for a message: its ``repr``, shortened if it is long or deeply nested."""
    return _short.repr(value)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of many digits
        return repr(x) if x.bit_length() <= 256 else f"an integer of {x.bit_length():,} bits"


_short = _Short()
_short.maxstring = _short.maxother = 200


def _summary(error: Exception) -> str:
    """Return one line about an unexpected exception, with the path of its traceback."""
    summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if "--debug" not in sys.argv:
        # without a temporary folder, or room in it, the traceback is printed
        with suppress(OSError):
            with tempfile.NamedTemporaryFile("w", prefix="task1a-", suffix=".txt", delete=False,
                                             encoding="utf-8", errors="backslashreplace") as report:
                report.write(f"{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
            return (f"{summary}; this is a defect of task1a, please report it with the traceback in "
                    f"{report.name} (--debug prints it)")
    traceback.print_exc()
    return f"{summary}; this is a defect of task1a, please report it with the traceback above"
