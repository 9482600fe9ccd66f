"""
Amounts: JSON numbers outside, integers of 10⁻⁸ units inside.

The rule of amounts is in docs/protocol.rst, "Money and time".
"""

from decimal import MAX_PREC, ROUND_HALF_EVEN, Context, Decimal
from math import ulp

from creditsync.codes import UNITS_PER_ONE

# Nothing here is ever rounded: an operation that changes only the exponent
# is exact at this precision, whatever the thread's own context is set to.
_EXACT = Context(prec=MAX_PREC)


def toUnits(amount: int | float | Decimal) -> int:
    """
    Convert an amount to an integer of 10⁻⁸ units.

    One with at most 8 decimals is exactly what it says. Programs write a double
    with up to 17 digits, the last of which are noise (C{3.1800000000000002}):
    one with more than 8 decimals is understood as the nearest with 8, if it is
    no further from that than a unit in the last place of a double.

    @param amount: As a request has it, or a C{Decimal} of a text. A C{float}
        has the digits that it is printed with.
    @raise ValueError: It is too fine, or not finite.
    """
    if isinstance(amount, int):
        return amount * UNITS_PER_ONE
    if isinstance(amount, float):
        if -1e7 < amount < 1e7:
            units = round(amount * UNITS_PER_ONE)
            # Of fewer than 16 digits there is only one such for each double.
            if units / UNITS_PER_ONE == amount:
                return units
        amount = Decimal(repr(amount))
    if amount.is_finite():
        # Not as_integer_ratio, which 65,000 digits would keep busy for 0.1 s.
        exact = amount.scaleb(8, _EXACT)
        nearest = exact.to_integral_value(ROUND_HALF_EVEN)
        if exact == nearest or _isNoise(amount, nearest.scaleb(-8, _EXACT)):
            return int(nearest)
    raise ValueError("an amount has at most 8 decimals")


def _isNoise(amount: Decimal, nearest: Decimal) -> bool:
    """
    Whether two numbers differ by no more than a unit in the last place.

    @param nearest: The one of at most 8 decimals, which is never 0 by noise.
    """
    if not nearest:
        return False
    unit = Decimal(ulp(float(nearest)))
    # The number as it is written, or the double that it is written for: the
    # digits that tell this double from others may be a little further away.
    return any(
        _EXACT.subtract(value, nearest).copy_abs() <= unit
        for value in (amount, Decimal(float(amount)))
    )


def fromUnits(units: int) -> str:
    """
    Write an amount in 10⁻⁸ units as a JSON number with a point, exactly.
    """
    whole, rest = divmod(abs(units), UNITS_PER_ONE)
    sign = "-" if units < 0 else ""
    if not rest:
        return f"{sign}{whole}.0"
    return f"{sign}{whole}.{rest:08}".rstrip("0")
