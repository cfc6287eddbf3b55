"""Text that fits: how wide it is at most, and shorter forms of it."""

from __future__ import annotations

import unicodedata

_EM = 0.62  # of the widest common sans-serif fonts, per character of usual names


def text_width(text: str, size: float) -> float:
    """Upper estimate in pixels; East Asian characters count as two."""
    return sum(1.7 if unicodedata.east_asian_width(c) in "WF" else 1.0 for c in text) * size * _EM


def shortened(text: str, room: float, size: float, end: bool = False) -> str:
    """The text, or as much of both its ends (or of its start) as `room` pixels hold."""
    if text_width(text, size) <= room:
        return text
    for count in range(len(text) - 1, 1, -1):
        front = count if end else (count + 1) // 2
        short = f"{text[:front].rstrip() if end else text[:front]}\u2026{text[len(text) - (count - front) :]}"
        if text_width(short, size) <= room:
            return short
    return "\u2026"


def wrapped(text: str, room: float, size: float, most: int) -> list[str]:
    """At most `most` lines, broken between words; the last one is shortened if need be."""
    lines, words = [""], text.split()
    for number, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or text_width(longer, size) <= room:
            lines[-1] = longer
        elif len(lines) < most:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {' '.join(words[number:])}"
            break
    return [shortened(line, room, size, end=True) for line in lines]


def drawable(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(
        c if c in "\t\n" or (c >= " " and not 0xD800 <= ord(c) <= 0xDFFF and c not in "\ufffe\uffff") else "\ufffd"
        for c in text
    )


def arrow(before: int, after: int | None) -> str:
    """`64 \u2192 40`, or one number where nothing changes."""
    return f"{before:,}" if after is None or after == before else f"{before:,} \u2192 {after:,}"
