"""
Bars as SVG, for those who would rather look.
"""

from collections.abc import Mapping
from html import escape
from typing import Final

from attrs import define

_WIDTH: Final = 720
_LABELS: Final = 190
_BAR: Final = 15
_GAP: Final = 12
_TOP: Final = 34
# Colours that those who can't tell red from green can tell too.
_COLOURS: Final = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#999999",
    "#f0e442",
    "#000000",
)


@define(frozen=True)
class Bars:
    """
    Groups of horizontal bars, all to the same scale.

    @ivar groups: What each bar of each group stands for, by their names.
    """

    title: str
    groups: Mapping[str, Mapping[str, float]]

    def svg(self) -> str:
        """
        Draw it.
        """
        most = max(
            (value for bars in self.groups.values() for value in bars.values()),
            default=0.0,
        )
        scale = (_WIDTH - _LABELS - 80) / most if most > 0 else 0.0
        names = list(dict.fromkeys(n for bars in self.groups.values() for n in bars))
        drawn, top = [_text(8, 20, self.title, "bold")], _TOP
        for group, bars in self.groups.items():
            drawn.append(_text(8, top + _BAR - 3, group))
            for name, value in bars.items():
                width = max(1.0, value * scale)
                colour = _COLOURS[names.index(name) % len(_COLOURS)]
                drawn.append(
                    f'<rect x="{_LABELS}" y="{top}" width="{width:.1f}"'
                    f' height="{_BAR - 2}" fill="{colour}"/>'
                )
                label = f"{_short(value)} {name}"
                drawn.append(_text(_LABELS + width + 5, top + _BAR - 4, label))
                top += _BAR
            top += _GAP
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH + 90}"'
                f' height="{top}" font-family="sans-serif" font-size="11">',
                '<rect width="100%" height="100%" fill="white"/>',
                *drawn,
                "</svg>",
                "",
            ]
        )


def _text(x: float, y: float, text: str, weight: str = "normal") -> str:
    return f'<text x="{x:.1f}" y="{y}" font-weight="{weight}">{escape(text)}</text>'


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
