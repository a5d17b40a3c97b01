"""The command ``python -m task1a.sweep``; see :mod:`task1a.pipeline.sweep`."""
import sys

from task1a.errors import run_command
from task1a.pipeline.sweep import main

if __name__ == "__main__":
    sys.exit(run_command(main))
