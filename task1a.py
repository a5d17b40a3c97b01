"""The runner's door: ``python task1a.py --stage all``."""
import sys

if __name__ == "__main__":
    # imported here because every worker process imports this file anew, and needs none of it
    from task1a.errors import run_command
    from task1a.pipeline.runner import main

    sys.exit(run_command(main))
