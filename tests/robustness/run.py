"""Disturb the whole chain on a toy system, and downloads, and check that they recover.

- ``kill``: ``kill -9`` at random moments of every stage, of the process alone or of its whole process group;
- ``two``: two commands at the same time, on one run folder or on one cache;
- ``disk``: a full disk in every stage;
- ``damage``: every file of the run folder and of the caches truncated, emptied, removed, replaced by a folder, or with
  a changed byte;
- ``download``: a download from a server on the loopback: connections cut at random, servers that misbehave, ``kill -9``
  at random moments, and a full disk.

Each case must end with the files of an undisturbed run, byte for byte except for the durations of training. The command
prints a line for each case and a summary; if anything differs, the exit status is 1 and the folders of those cases are
kept. Requires Linux, and for ``disk`` and ``download`` root, to mount a file system in memory.
"""
import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

import subjects
from chain import Toy
from downloads import download

ROUNDS = {"kill": 50, "two": 12, "disk": 40, "damage": 3, "download": 10}


def main() -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subject", nargs="*", metavar="SUBJECT", help=f"{', '.join(ROUNDS)} (default: all)")
    parser.add_argument("--rounds", type=int, metavar="N",
                        help="number of cases of kill, two, disk and download, and of bytes changed in a file by "
                             f"damage (default: {', '.join(map(str, ROUNDS.values()))})")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed (default: 0)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="working folder (default: a new temporary folder)")
    arguments = parser.parse_args()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix="robustness-"))).resolve()
    table = [f"\nsubject  cases  differ   (seed {arguments.seed}, in {work})"]
    failed = 0
    for subject in arguments.subject or ROUNDS:
        generator, rounds = random.Random(arguments.seed), arguments.rounds or ROUNDS[subject]
        if subject == "download":
            results = download(work / subject, rounds, generator)
        else:
            results = getattr(subjects, subject)(Toy(work / subject), rounds, generator)
        cases = differing = 0
        for case, problems, folder in results:
            print(f"{subject}: {'DIFFERS' if problems else 'ok'}: {case}", *problems, sep="\n    ", flush=True)
            cases += 1
            differing += bool(problems)
            if not problems:
                shutil.rmtree(folder)
        table.append(f"{subject:<8} {cases:>5}  {differing:>6}")
        failed += differing
    print("\n".join(table))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
