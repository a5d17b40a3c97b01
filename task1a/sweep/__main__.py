"""The sweep's door: ``python -m task1a.sweep TABLE.yaml --seeds 0-2``."""
import sys

if __name__ == "__main__":
    # imported here because a worker may import this file anew, and needs none of it
    from task1a.errors import run_command
    from task1a.sweep.command import main

    sys.exit(run_command(main))
