"""
Have each planted bug looked for by the suite that has to find it:

    python -m tests.planted [NAME ...]

Every suite is run without a bug too, where it must find nothing: one that is
always red would find anything.
"""

import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from tests.figures import Figures
from tests.planted.bugs import BUGS

# Seconds within which a bug must be found, and within which a suite must
# finish without a bug, where it has to run to its end.
LIMIT = 60
PATIENCE = 300


def run(
    suite: Sequence[str], *options: str, limit: float = LIMIT
) -> tuple[int, float, str]:
    """
    Run a suite.

    @return: Its exit status, the seconds it took and its last line.
    """
    started = time.monotonic()
    command = [sys.executable, "-m", *suite, *options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return -1, time.monotonic() - started, f"not within {limit} s"
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines()
    return done.returncode, time.monotonic() - started, lines[-1] if lines else ""


def main() -> None:
    """
    Run the suites that the command line names.
    """
    parser = ArgumentParser(description="Look for planted bugs.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="all, if none is named"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in BUGS]
    if unknown:
        parser.error(f"there is no bug {unknown[0]}: {', '.join(BUGS)}")
    names = options.names or list(BUGS)
    figures = Figures()
    missed = []
    for suite in dict.fromkeys(BUGS[name].caughtBy for name in names):
        status, seconds, last = run(suite, limit=PATIENCE)
        figures[f"none, {' '.join(suite)}"] = f"{seconds:5.1f} s  {last}"
        if status != 0:
            missed.append(f"{suite[0]} is red without a bug: {last}")
    for name in names:
        suite = BUGS[name].caughtBy
        status, seconds, last = run(suite, "--plant", name)
        isFound = status == 1 and last.startswith("VIOLATION")
        print(
            f"{name}: {'found' if isFound else 'MISSED'} in {seconds:.1f} s", flush=True
        )
        figures[f"{name}, {suite[0]}"] = f"{seconds:5.1f} s  {last}"
        if not isFound:
            missed.append(f"{suite[0]} did not find {name}: {last}")
    figures.show(options.json)
    for sentence in missed:
        print(f"VIOLATION: {sentence}")
    if missed:
        sys.exit(1)
    print(f"sound: all of {len(names)} planted bugs are found")


if __name__ == "__main__":
    main()
