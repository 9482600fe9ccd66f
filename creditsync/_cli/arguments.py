"""
The types of arguments that several commands take. Each reads a text, and raises
C{ArgumentTypeError} if it can't be used.
"""

import os
import re
from argparse import ArgumentTypeError
from decimal import Decimal

from creditsync.codes import MAX_SAFE_INTEGER

# As schemas/common.json has it.
_GROUP = re.compile(
    "([^\\0-\\x20!*,\\x7f-\\x9f]([^\\0-\\x1f*,\\x7f-\\x9f]*[^\\0-\\x20*,\\x7f-\\x9f])?)?"
)


def login(argument: str) -> int:
    """
    The login of an account.
    """
    return _positive("a login", argument)


def order(argument: str) -> int:
    """
    The number of an order.
    """
    return _positive("an order", argument)


def operation(argument: str) -> int:
    """
    The number of an operation in the log of a gateway.
    """
    return _positive("an operation", argument)


def _positive(what: str, argument: str) -> int:
    # Longer ones are too great, and int() is slow with very long ones.
    number = int(argument) if re.fullmatch("[0-9]{1,16}", argument) else 0
    if not 1 <= number <= MAX_SAFE_INTEGER:
        raise ArgumentTypeError(f"{what} is a number from 1 to 2^53-1: {argument}")
    return number


def amount(argument: str) -> Decimal:
    """
    An amount, exactly as it is written.
    """
    isNumber = re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", argument)
    if not isNumber or not Decimal(argument):
        raise ArgumentTypeError(
            f"an amount is a number greater than 0, such as 300 or 19.99: {argument}"
        )
    return Decimal(argument)


def group(argument: str) -> str:
    """
    The name of a group of accounts, or "" for none.
    """
    name = text(argument)
    if len(name) > 128 or not _GROUP.fullmatch(name):
        raise ArgumentTypeError(
            "a group is a name of at most 128 characters, without commas, asterisks and"
            f" an exclamation mark at its beginning: {argument}"
        )
    return name


def text(argument: str) -> str:
    """
    A text that is not the name of a file. It must be UTF-8.
    """
    if not any("\udc80" <= each <= "\udcff" for each in argument):
        return argument
    # Python represents bytes that it could not decode by such characters. Under
    # LC_ALL=C these may be all that are not ASCII, in valid UTF-8.
    given = os.fsencode(argument)
    try:
        return given.decode("utf-8")
    except UnicodeDecodeError:
        shown = given.decode("utf-8", "backslashreplace")
        raise ArgumentTypeError(f"must be UTF-8: {shown}") from None
