"""
The tag at the end of a comment, by which an operation is recognized at the platform.

C{gift ~k3fa.5} is operation 5 of the log whose tags have the name k3fa. With it two
operations that are alike in everything can be told apart, and one is found whose amount
somebody has changed. The platform has the comment with its tag; the journal, and
whatever clients see, has it without. So the tag is taken off where a record goes into
the journal or to a client, and nowhere before.

A log has a name for each life of its ledger. A copy that is restored has lost some of
its last operations and gives their numbers again; under its new name they are others.

A platform may cut comments. What it would cut is not sent, so that an operation is
looked for by the comment that its trade has.
"""

import re
from collections.abc import Sequence
from typing import Final

from attrs import define, field
from msgspec.structs import replace

from creditsync.codes import MAX_COMMENT
from creditsync.records import Deletion, Operation, Trade

_TAG: Final = re.compile(r" ~([0-9a-z]{4})\.([1-9a-z][0-9a-z]*)\Z")
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"


@define(eq=False)
class Tags:
    """
    The tags of one gateway.

    @ivar isOn: Whether new operations get one. What has one keeps it.
    @ivar longest: Characters that a comment at the platform may have. One that would be
        longer with its tag gets none, and one that is longer without it is cut.
    @ivar _names: Of all lives of the ledger, the present one last.
    """

    isOn: bool = False
    longest: int = MAX_COMMENT
    _names: Sequence[str] = field(default=(), init=False)

    def use(self, epochs: Sequence[str]) -> None:
        """
        Take the names from the epochs of the ledger, the present one last.
        """
        self._names = [_inBase36(int(each, 16) % 36**4).zfill(4) for each in epochs]

    def put(self, comment: str, number: int) -> str:
        """
        The comment with which an operation is sent.
        """
        tagged = f"{comment} ~{self._names[-1]}.{_inBase36(number)}"
        isTagged = self.isOn and len(tagged) <= self.longest
        return tagged if isTagged else comment[: self.longest]

    def kept(self, operation: Operation | Deletion) -> Operation | Deletion:
        """
        An operation with as much of its comment as the platform keeps: after a restart
        the log has no more of it.
        """
        if (
            not isinstance(operation, Operation)
            or len(operation.comment) <= self.longest
        ):
            return operation
        return replace(operation, comment=operation.comment[: self.longest])

    def isForged(self, comment: str) -> bool:
        """
        Whether the comment of a request has a tag of this gateway, or would have one
        when it is cut.
        """
        return self.isOwn(comment) or self.isOwn(comment[: self.longest])

    def isOwn(self, comment: str) -> bool:
        """
        Whether a comment has a tag of this gateway.
        """
        return _nameIn(comment) in self._names

    def stranger(self, comment: str) -> str | None:
        """
        The name in the tag of another gateway, if a comment has one.
        """
        name = _nameIn(comment)
        return None if name in self._names else name

    def off(self, comment: str) -> str:
        """
        A comment without a tag of this gateway.
        """
        return _TAG.sub("", comment) if self.isOwn(comment) else comment

    def plain(self, trade: Trade) -> Trade:
        """
        A trade as clients see it.
        """
        comment = self.off(trade.comment)
        return trade if comment is trade.comment else replace(trade, comment=comment)

    def asked(self, operation: Operation | Deletion) -> Operation | Deletion:
        """
        An operation of the log as it was requested.
        """
        if not isinstance(operation, Operation) or not self.isOwn(operation.comment):
            return operation
        return replace(operation, comment=self.off(operation.comment))


def _nameIn(comment: str) -> str | None:
    # Most have none, and this is much faster than the expression.
    found = _TAG.search(comment) if " ~" in comment[-40:] else None
    return None if found is None else found[1]


def _inBase36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits
