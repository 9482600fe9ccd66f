"""
How trades are told to people.
"""

from typing import Any

from creditsync.methods import ofCmd


def cmdName(cmd: Any) -> str:
    """
    What a trade does, in the word of the subcommand that makes it.
    """
    method = ofCmd(cmd)
    return f"cmd {cmd}" if method is None else method.subcommand


def printable(comment: str) -> str:
    """
    A comment with nothing in it that moves the cursor, such as a line's end.
    """
    return "".join(
        each if each.isprintable() else ascii(each)[1:-1] for each in comment
    )
