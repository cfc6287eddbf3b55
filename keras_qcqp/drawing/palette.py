"""Colours for any number of masks, told apart by hue first and by lightness where hues come around again.

The hues are those of M. Okabe, K. Ito, *Color universal design* (2008), which colour-blind people tell apart too, but
for its yellow, which is lost on white paper: a dark red stands in for it.
"""

from __future__ import annotations

_HUES = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (136, 34, 85))
_DARKEST, _LIGHTEST = 0.6, 0.45  # how far a shade may go towards black, and towards white


def palette(count: int) -> tuple[str, ...]:
    """`count` different colours such as #0072b2; neighbours differ in hue."""
    found: dict[str, None] = {}
    for number in range(count):
        red, green, blue = _shade(_HUES[number % len(_HUES)], number // len(_HUES))
        while f"#{red:02x}{green:02x}{blue:02x}" in found:  # hundreds of masks exhaust the shades
            blue, green = (blue + 1) % 256, (green + (blue == 255)) % 256
        found[f"#{red:02x}{green:02x}{blue:02x}"] = None
    return tuple(found)


def on(colour: str) -> str:
    """Black or white, whichever reads better on this colour (relative luminance of WCAG 2)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "#ffffff"


def _shade(hue: tuple[int, int, int], turn: int) -> tuple[int, int, int]:
    """The hue itself, then darker and lighter ones in turns, each as far as can be from those before."""
    if turn == 0:
        return hue
    target, furthest = (0, _DARKEST) if turn % 2 else (255, _LIGHTEST)
    amount = furthest * _halves((turn + 1) // 2)
    red, green, blue = (round(c + (target - c) * amount) for c in hue)
    return red, green, blue


def _halves(number: int) -> float:
    """1/2, 1/4, 3/4, 1/8, 5/8, ... (van der Corput)."""
    value, weight = 0.0, 0.5
    while number:
        value += weight * (number % 2)
        number, weight = number // 2, weight / 2
    return value
