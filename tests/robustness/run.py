"""Disturb the whole chain on a toy system, and show that it ends as if nothing had happened.

- ``kill``: ``kill -9`` at random moments of every stage, of the process alone or of its whole process group;
- ``two``: two commands at once, on one run folder or on one cache;
- ``disk``: a disk that fills up in every stage;
- ``damage``: every file of the run folder and of the caches cut, emptied, removed, made a folder, a byte changed.

Each case ends with the files of an undisturbed run, byte for byte but for the seconds that training took. Prints a line
for every case and a table of all; exit status 1 where anything differs, and then the folders of those cases are left.
Needs Linux, and for ``disk`` root, to mount a file system in memory.
"""
import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import subjects
from chain import Toy

ROUNDS = {"kill": 50, "two": 12, "disk": 40, "damage": 3}


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="*", metavar="SUBJECT", help=f"of {', '.join(ROUNDS)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="cases of kill, two and disk; bytes changed in a file of damage (default: "
                             f"{', '.join(map(str, ROUNDS.values()))})")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of what is random (default: 0)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where to work (default: a new temporary folder)")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="robustness-"))).resolve()
    table = [f"\nsubject  cases  differ   (seed {arguments.seed}, in {work})"]
    failed = 0
    for subject in arguments.subject or ROUNDS:
        toy, draw = Toy(work / subject), random.Random(arguments.seed)
        cases = differing = 0
        for what, problems, folder in getattr(subjects, subject)(toy, arguments.rounds or ROUNDS[subject], draw):
            print(f"{subject}: {'DIFFERS' if problems else 'ok'}: {what}", *problems, sep="\n    ", flush=True)
            cases += 1
            differing += bool(problems)
            if not problems:
                shutil.rmtree(folder)
        table.append(f"{subject:<7}  {cases:>5}  {differing:>6}")
        failed += differing
    print("\n".join(table))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
