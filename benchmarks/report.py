"""
C{python -m benchmarks.report FOLDER}: results for the page.

It reads the JSON files that the other commands have written into a folder and
puts their goals and figures into C{README.rst}, between two comments: no
figure is typed by hand.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.figures import text
from benchmarks.results import Results, Table, goalsOf

# In the order of the page.
COMMANDS: Final = ("throughput", "broadcast", "scale", "catchup", "cluster")
_BEGIN: Final = ".. The figures begin here: benchmarks/report.py writes them.\n"
_END: Final = ".. The figures end here.\n"


def page(folder: Path) -> Iterator[str]:
    """
    The lines for all results.
    """
    for command in COMMANDS:
        path = folder / f"{command}.json"
        if not path.exists():
            continue
        results: Results = json.loads(path.read_text("utf-8"))
        for table in goalsOf(results):
            yield from (f"``benchmarks.{command}``: {_where(results)}", "")
            yield from _table(table)


def _where(results: Results) -> str:
    where = "; ".join(f"{name}: {value}" for name, value in results["where"].items())
    return _escaped(where)


def _table(table: Table) -> Iterator[str]:
    """
    A table as a C{list-table}, whose columns may have any width.
    """
    yield f".. list-table:: {table.title}"
    yield "   :header-rows: 1"
    yield ""
    for row in table.rows:
        for number, cell in enumerate(row):
            bullet = "  " if number else "* "
            yield f"   {bullet}- {_escaped(text(cell))}".rstrip()
    yield ""


def _escaped(text: str) -> str:
    """
    Escaped for reStructuredText.
    """
    return "".join(f"\\{each}" if each in "\\*_`|" else each for each in text)


def put(lines: str, into: str) -> str:
    """
    Replace the lines between the two comments of a page.
    """
    before, begin, rest = into.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit("the page has no place for figures")
    return f"{before}{begin}\n{lines}{end}{after}"


def main() -> None:
    """
    Write the page that the command line names.
    """
    parser = argparse.ArgumentParser("python -m benchmarks.report")
    parser.add_argument("folder", type=Path, help="with the JSON of the commands")
    parser.add_argument(
        "--into",
        type=Path,
        default=Path(__file__).parent / "README.rst",
        help="the page (default: README.rst of this folder)",
    )
    options = parser.parse_args()
    lines = "".join(f"{line}\n" for line in page(options.folder))
    if not lines:
        raise SystemExit(f"{options.folder} has no results: {', '.join(COMMANDS)}.json")
    old = options.into.read_text("utf-8")
    options.into.write_text(put(lines, old), "utf-8")


if __name__ == "__main__":
    main()
