"""
The schema of a ledger: the script of each version, and the columns of its trades.
"""

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from creditsync.records import TRADE_MEMBERS

# "CrSy" in the file's header tells a ledger from other databases.
APPLICATION_ID: Final = 0x43725379

# The nth script makes version n from version n - 1.
SCRIPTS: Final[tuple[str, ...]] = tuple(
    files(__package__).joinpath(name).read_text("utf-8")
    for name in ("001.sql", "002.sql", "003.sql")
)


def columns(names: Sequence[str]) -> str:
    """
    A list of columns in SQL, where C{order} is a keyword and has to be quoted.
    """
    return ", ".join(f'"{name}"' if name == "order" else name for name in names)


# The columns of the table trade, in the order of the members of a Trade.
COLUMNS: Final = columns(TRADE_MEMBERS)
