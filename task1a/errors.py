"""What a user can put right, told in one line, and how every command of the project ends."""
import argparse
import sys
from collections.abc import Callable
from typing import NoReturn


class InputError(Exception):
    """Something the user gave is wrong. The message is one line: what is wrong, where, and what to do."""


class FallsShort(Exception):
    """What was asked for could be done, and its result is not good enough. The message is one line that says why."""


class CommandParser(argparse.ArgumentParser):
    """A parser of arguments that tells what is wrong with them like every other error: in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage and leaving the process."""
        raise InputError(f"{message}; see {self.prog} --help")


def run_command(main: Callable[[], int]) -> int:
    """Run a command's ``main`` and return its exit status, without a traceback for what a user can put right.

    Returns ``main``'s own status (0: the thing asked for is there and right; 1: it was looked at and falls short),
    2 where it could not be done, 130 after Ctrl-C.
    """
    try:
        return main()
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except FallsShort as error:
        print(f"falls short: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
