"""
The tokens of the clients.

A client has one token, or in a seed with restricted tokens several, between which it
changes in mid-connection: for more accounts or for fewer, of another role, and some
that are no longer valid, or will not be for long.
"""

from functools import lru_cache
from random import Random

import jwt

from tests.simulation.history import Token
from tests.simulation.rights import CUSTOMER, USER
from tests.simulation.setting import LOGINS
from tests.simulation.site import SECRET
from tests.simulation.world import BEGINNING

_MASKS = (
    "*",
    "real*",
    "real*,demo",
    "!real-vip,real*",
    "real*,!real-vip",
    " ! demo* , * ",
    "!,*",
    "!demo",
    "*real",
    "d*m*o*,real",
    "Real,,nothing",
    "",
)

_FOREVER = 4102444800
_ROLES = (1, 2, 3, 1, 1, 0, 3)
# The roles of the tokens that may not book: user, system, FIX, customer, and those of
# the CRM.
_OTHER_ROLES = (0, 0, 4, 5, 9, 9, 10, 11)


@lru_cache(maxsize=10_000)
def _mint(
    principal: int,
    role: int,
    expires: float,
    jti: str,
    groups: str | None,
    login: int | None,
    logins: tuple[int, ...] | None,
) -> str:
    claims = {"id": principal, "role": role, "exp": expires, "jti": jti}
    rights = {"groups": groups, "login": login, "logins": logins}
    claims |= {name: each for name, each in rights.items() if each is not None}
    return jwt.encode(claims, SECRET, "HS256")


def _token(
    principal: int,
    role: int,
    jti: str,
    expires: float | None = None,
    groups: str | None = None,
    login: int | None = None,
    logins: tuple[int, ...] | None = None,
) -> Token:
    text = _mint(principal, role, expires or _FOREVER, jti, groups, login, logins)
    return Token(text, principal, role, jti, expires, None, groups, login, logins)


def otherOf(number: int) -> Token:
    """
    The other token of the n-th client, of a principal and a role of its own.
    """
    role, jti = number % 2, f"other-{number}"
    # A user may see only the account of its own number.
    principal = 107 + number if role else 1001 + number // 2 % 2
    return _token(principal, role, jti)


def tokenOf(number: int, expires: float | None) -> Token:
    """
    The token of the n-th client. The first two are one principal.
    """
    return _token(_principalOf(number), _ROLES[number], f"token-{number}", expires)


def _principalOf(number: int) -> int:
    return 7 + max(0, number - 1)


def wardrobeOf(
    number: int, random: Random, length: float, mayExpire: bool
) -> list[Token]:
    """
    Further tokens of the n-th client, if tokens are restricted.

    @param length: About how long the run is, in seconds.
    """
    principal, role, name = _principalOf(number), _ROLES[number], f"token-{number}"
    booking = role or 1
    tokens = [
        _token(principal, booking, f"{name}-{n}", groups=random.choice(_MASKS))
        for n in range(3)
    ]
    tokens += [_restricted(principal, random, f"{name}-other-{n}") for n in range(2)]
    tokens.append(_token(principal, booking, f"{name}-wide", groups="*"))
    # The first of these has expired already.
    for n, share in enumerate((0.0, random.random(), random.random(), random.random())):
        ends = BEGINNING + round(share * length, 3) - 0.001
        mask = random.choice(_MASKS)
        if mayExpire:
            tokens.append(_token(principal, booking, f"{name}-ends-{n}", ends, mask))
    return tokens


def _restricted(principal: int, random: Random, jti: str) -> Token:
    """
    A token that may not book.
    """
    role, login = random.choice(_OTHER_ROLES), random.choice(LOGINS)
    if role == USER:
        isNamed = random.random() < 0.5
        return _token(
            login, role, jti, login=random.choice(LOGINS) if isNamed else None
        )
    if role == CUSTOMER:
        logins = tuple(each for each in LOGINS if random.random() < 0.5)
        return _token(principal, role, jti, logins=logins)
    mask = random.choice((None, *_MASKS))
    return _token(principal, role, jti, groups=mask)


def readerTokens(number: int, random: Random | None, isForAll: bool) -> list[Token]:
    """
    The tokens of a client that follows the journal.

    @param random: Chooses what they are for, if tokens are restricted.
    @param isForAll: Whether it is for all accounts nevertheless.
    """
    principal, jti = 207 + number, f"reader-{number}"
    if random is None:
        return [_token(principal, 1, jti)]
    if isForAll:
        return [_token(principal, 1, jti, groups="*")]
    masks = random.choice(_MASKS), random.choice(_MASKS), "*"
    tokens = [
        _token(principal, 1, f"{jti}-{n}", groups=mask) for n, mask in enumerate(masks)
    ]
    return [*tokens, _restricted(principal, random, f"{jti}-other")]
