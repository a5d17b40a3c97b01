"""The runner's door: ``python task1a.py --stage all``."""
import sys

from task1a.errors import run_command
from task1a.runner import main

if __name__ == "__main__":
    sys.exit(run_command(main))
