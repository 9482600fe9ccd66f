"""
How trades are told to people.
"""

from typing import Any, Final

from creditsync import codes

_CMDS: Final[dict[Any, str]] = {
    codes.OP_BALANCE_IN: "balance-in",
    codes.OP_CREDIT_IN: "credit-in",
    codes.OP_BALANCE_OUT: "balance-out",
    codes.OP_CREDIT_OUT: "credit-out",
}


def cmdName(cmd: Any) -> str:
    """
    What a trade does, in the word of the subcommand that makes it.
    """
    return _CMDS.get(cmd, f"cmd {cmd}")


def printable(comment: str) -> str:
    """
    A comment with nothing in it that moves the cursor, such as a line's end.
    """
    return "".join(
        each if each.isprintable() else ascii(each)[1:-1] for each in comment
    )
