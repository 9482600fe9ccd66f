"""
Which accounts a token may see and touch (C{docs/protocol.rst}, "Rights"), and when.

An account's group changes while requests and events are under way. Before a move is
handed to the trading runtime the former group counts, and once that has said that the
move is in force the new one does; in between either may. So a question about a time
may have two answers.
"""

from attrs import define, field

from tests.simulation.history import History, Moment, Move, Token

# The roles whose accounts are not selected by groups.
ADMIN, USER, FIX, CUSTOMER = 3, 0, 5, 9


def selects(mask: str, group: str) -> bool:
    """
    Whether a mask selects a group.
    """
    for each in mask.split(","):
        text = each.strip(" ")
        if text.startswith("!"):
            if _fits(text[1:].strip(" "), group):
                return False
        elif text and _fits(text, group):
            return True
    return False


def _fits(pattern: str, group: str) -> bool:
    """
    Whether a pattern matches a whole group: the ends of what each beginning of the
    pattern matches are followed, one character after the other.
    """
    ends = {0}
    for character in pattern:
        if character == "*":
            ends = {end for start in ends for end in range(start, len(group) + 1)}
        else:
            ends = {end + 1 for end in ends if group[end : end + 1] == character}
    return len(group) in ends


@define(eq=False)
class Rights:
    """
    The rights of all tokens.

    @ivar _requiresGroups: Whether the server was started with C{--require-groups}.
    """

    _history: History
    _requiresGroups: bool
    _moves: dict[int, list[Move]] = field(init=False, factory=dict)
    _answers: dict[tuple[Token, int, str], bool] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        for each in self._history.moves:
            self._moves.setdefault(each.login, []).append(each)

    def groups(self, login: int, first: Moment, last: Moment) -> set[str]:
        """
        The groups that an account may have had between two moments, both included.
        """
        groups = {""}
        for move in self._moves.get(login, ()):
            if move.begun > last:
                break
            if move.ended < first:
                groups.clear()
            groups.add(move.group)
        return groups

    def sees(self, token: Token, login: int, first: Moment, last: Moment) -> set[bool]:
        """
        Whether a token was for an account between two moments: both, if that has, or
        may have, changed.
        """
        if self.hasAll(token):
            return {True}
        groups = self.groups(login, first, last)
        return {self._maySee(token, login, group) for group in groups}

    def seesGroup(self, token: Token, group: str) -> bool:
        """
        Whether a token that may look up groups is for the accounts of this one.
        """
        if token.groups is None or token.role == ADMIN:
            return self.hasAll(token)
        return selects(token.groups, group)

    def hasAll(self, token: Token) -> bool:
        """
        Whether a token is for all accounts, whatever their groups.
        """
        if token.role in (USER, FIX, CUSTOMER):
            return False
        isOpen = token.groups is None and not self._requiresGroups
        return token.role == ADMIN or isOpen

    def _maySee(self, token: Token, login: int, group: str) -> bool:
        found = self._answers.get((token, login, group))
        if found is None:
            found = self._judge(token, login, group)
            self._answers[token, login, group] = found
        return found

    def _judge(self, token: Token, login: int, group: str) -> bool:
        if token.role == FIX:
            return False
        if token.role == USER:
            return login == (token.principal if token.login is None else token.login)
        if token.role == CUSTOMER:
            return token.logins is not None and login in token.logins
        if token.role == ADMIN:
            return True
        if token.groups is None:
            return not self._requiresGroups
        return selects(token.groups, group)
