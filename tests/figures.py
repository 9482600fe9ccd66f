"""
The measurements of a long run, as a table for people and as JSON for machines.
"""

import json
from pathlib import Path


class Figures(dict[str, object]):
    """
    Names and values, in the order in which they were measured.
    """

    def show(self, path: Path | None = None) -> None:
        """
        Print the table, and write it as JSON too if there is a path.
        """
        width = max(map(len, self), default=0)
        for name, value in self.items():
            text = f"{value:,}" if isinstance(value, int | float) else str(value)
            print(f"  {name:<{width}}  {text}")
        if path is not None:
            path.write_text(json.dumps(self, indent=2) + "\n")
