"""Run ``python`` with some arguments in a process that conftest.py has forked from one with the libraries imported.

The variables are given by conftest.py: ``arguments``, ``folder``, ``environment``, ``streams`` and ``before``. The
modules of this project are imported anew, so that they can be those of another folder.
"""
import os
import runpy
import signal
import sys
from pathlib import Path

if hasattr(os, "setsid"):
    os.setsid()  # a process group of its own, which can be sent signals
for number, name in enumerate((os.devnull, *streams)):  # noqa: F821
    opened = os.open(name, os.O_RDWR | os.O_APPEND)
    os.dup2(opened, number)
    os.close(opened)
sys.stdin, sys.stdout, sys.stderr = open(0, closefd=False), open(1, "w", closefd=False), open(2, "w", 1, closefd=False)
signal.signal(signal.SIGINT, signal.default_int_handler)  # the process that was forked is deaf to it
os.environ.clear()
os.environ.update(environment)  # noqa: F821
os.chdir(folder)  # noqa: F821
for name in [name for name in sys.modules if name.partition(".")[0] in ("task1a", "evaluation", "submission")]:
    del sys.modules[name]
exec(before)  # noqa: F821

program, *sys.argv = arguments  # noqa: F821
if program == "-m":
    sys.path.insert(0, os.getcwd())
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    sys.argv.insert(0, program)
    sys.path.insert(0, str(Path(program).resolve().parent))
    runpy.run_path(program, run_name="__main__")
