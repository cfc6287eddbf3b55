"""Writes content and layout as SVG: plain shapes and text, no script, nothing outside the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree import ElementTree as Xml

from keras_qcqp.drawing.content import Box, Content, Line, Stripe
from keras_qcqp.drawing.labels import drawable, shortened, text_width, wrapped
from keras_qcqp.drawing.layout import Curve, place
from keras_qcqp.drawing.palette import on, palette

_FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
_INK, _FAINT, _RULE, _WARN, _PAPER = "#1b1b1b", "#555555", "#9a9a9a", "#8a3300", "#ffffff"
_NAME, _SMALL, _TINY = 12.0, 11.0, 10.5  # sizes of text
_PAD, _BAR_TOP, _BAR, _NOTE = 8.0, 38.0, 13.0, 14.0
_NARROWEST, _WIDEST = 120.0, 204.0
_MARGIN, _HEAD, _LEGEND, _ROW = 20.0, 64.0, 330.0, 20.0
_HATCH = "url(#keras-qcqp-frozen)"


def write(content: Content) -> tuple[str, int, int]:
    """The SVG text, and its size in pixels."""
    wide = _box_width(content.boxes)
    remarks = [_remarks(box, wide - 2 * _PAD) for box in content.boxes]
    sizes = [(wide, _box_height(box, len(told))) for box, told in zip(content.boxes, remarks, strict=True)]
    layout = place(sizes, [line.wire for line in content.lines])
    colours = iter(palette(sum(not e.frozen for e in content.entries)))
    fills = tuple(_HATCH if e.frozen else next(colours) for e in content.entries)
    width = math.ceil(layout.width + _LEGEND + 3 * _MARGIN)
    height = math.ceil(_HEAD + max(layout.height, _legend_height(content)) + _MARGIN)
    root = Xml.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "width": str(width),
            "height": str(height),
            "viewBox": f"0 0 {width} {height}",
            "role": "img",
            "font-family": _FONT,
        },
    )
    _child(root, "title", drawable(content.title))
    _child(root, "desc", drawable(f"{content.title}: {content.summary}. Boxes are calls; colours are coupled masks."))
    _hatching(root)
    _child(root, "rect", width=width, height=height, fill=_PAPER)
    _text(root, _MARGIN, 30, shortened(drawable(content.title), width - 2 * _MARGIN, 18), 18, weight="bold")
    _text(root, _MARGIN, 49, content.summary, _SMALL, fill=_FAINT)
    drawn = _child(root, "g", transform=f"translate({_MARGIN:g} {_HEAD:g})")
    for line, curves in zip(content.lines, layout.curves, strict=True):
        _wire(drawn, line, curves, fills)
    for box, told, corner, size in zip(content.boxes, remarks, layout.corners, sizes, strict=True):
        _box(drawn, box, told, corner, size, fills)
    legend = _child(root, "g", transform=f"translate({2 * _MARGIN + layout.width:g} {_HEAD:g})")
    _legend(legend, content, fills)
    Xml.indent(root, " ")
    return Xml.tostring(root, encoding="unicode") + "\n", width, height


def _box_width(boxes: Sequence[Box]) -> float:
    """As wide as the longest text wants, within limits."""
    names = [text_width(b.name, _NAME) for b in boxes]
    kinds = [text_width(f"{b.kind}  {b.width}", _SMALL) for b in boxes]
    notes = [text_width(note, _TINY) for b in boxes for note in b.notes]
    return min(max([_NARROWEST, *(w + 2 * _PAD for w in names + kinds + notes)]), _WIDEST)


def _remarks(box: Box, room: float) -> list[tuple[str, str]]:
    """The lines under the colours of a box, each with its own colour."""
    notes = [(shortened(drawable(note), room, _TINY, end=True), _FAINT) for note in box.notes]
    return notes + [(line, _WARN) for reason in box.reasons for line in wrapped(drawable(reason), room, _TINY, 2)]


def _box_height(box: Box, num_remarks: int) -> float:
    return _notes_top(box) + _NOTE * num_remarks


def _notes_top(box: Box) -> float:
    return _BAR_TOP + _BAR + _PAD - 1 if box.stripes else _BAR_TOP


def _box(
    parent: Xml.Element,
    box: Box,
    remarks: Sequence[tuple[str, str]],
    corner: tuple[float, float],
    size: tuple[float, float],
    fills: Sequence[str],
) -> None:
    group = _child(parent, "g", transform=f"translate({corner[0]:g} {corner[1]:g})")
    group.set("class", "call")
    _child(group, "title", drawable(box.tip))
    _child(group, "rect", width=size[0], height=size[1], rx=5, fill=_PAPER, stroke=_RULE)
    room = size[0] - 2 * _PAD
    _text(group, _PAD, 16, shortened(drawable(box.name), room, _NAME), _NAME, weight="bold")
    counts = shortened(box.width, room * 0.7, _SMALL)
    kind = shortened(box.kind, room - text_width(counts + " ", _SMALL), _SMALL)
    _text(group, _PAD, 31, kind, _SMALL, fill=_FAINT)
    if counts:
        _text(group, size[0] - _PAD, 31, counts, _SMALL, anchor="end")
    x, total = _PAD, sum(s.before for s in box.stripes)
    for stripe in box.stripes:
        share = room * stripe.before / total
        _stripe(group, stripe, x, _BAR_TOP, share, fills)
        x += share
    for number, (remark, colour) in enumerate(remarks):
        _text(group, _PAD, _notes_top(box) + 6 + number * _NOTE, remark, _TINY, fill=colour)


def _stripe(parent: Xml.Element, stripe: Stripe, x: float, y: float, width: float, fills: Sequence[str]) -> None:
    """Filled as far as channels stay, hollow where they go; the mask's number stands in the longer part."""
    fill = fills[stripe.mask]
    stays = width * stripe.after / stripe.before
    edge = _FAINT if fill == _HATCH else fill
    for part, colour in ((width, _PAPER), (stays, fill)):
        if part > 0:
            _child(parent, "rect", x=x, y=y, width=part, height=_BAR, fill=colour, stroke=edge, data_mask=stripe.mask)
    middle, room = (x + stays / 2, stays) if stays >= width / 2 else (x + (stays + width) / 2, width - stays)
    if text_width(str(stripe.mask), 10) + 4 <= room:
        solid = stays >= width / 2 and fill != _HATCH
        if fill == _HATCH:
            wide = text_width(str(stripe.mask), 10) + 4
            _child(parent, "rect", x=middle - wide / 2, y=y + 1, width=wide, height=_BAR - 2, fill=_PAPER)
        colour = on(fill) if solid else _INK
        _text(parent, middle, y + _BAR - 3, str(stripe.mask), 10, fill=colour, anchor="middle")


def _wire(parent: Xml.Element, line: Line, curves: Sequence[Curve], fills: Sequence[str]) -> None:
    colour = _RULE if line.mask is None or fills[line.mask] == _HATCH else fills[line.mask]
    thick = 1.2 + 0.32 * math.log2(line.channels + 1)
    group = _child(parent, "g", fill="none", stroke=colour, stroke_width=thick)
    group.set("class", "tensor")
    _child(group, "title", drawable(line.tip))
    _child(group, "path", d=" ".join(_path(c, thick) for c in curves))
    for c in curves:
        if c.arrives:
            half, long = thick / 2 + 2.2, 2 * thick + 2
            points = f"{c.x1:.5g},{c.y3:.5g} {c.x1 - half:.5g},{c.y3 - long:.5g} {c.x1 + half:.5g},{c.y3 - long:.5g}"
            _child(group, "polygon", points=points, fill=colour, stroke="none")


def _path(c: Curve, thick: float) -> str:
    end = c.y2 - (2 * thick + 1 if c.arrives else 0)
    if abs(c.x0 - c.x1) < 0.01:
        return f"M{_n(c.x0)} {_n(c.y0)}V{_n(end)}"
    half = (c.y1 + end) / 2
    bend = f"C{_n(c.x0)} {_n(half + 4)} {_n(c.x1)} {_n(half - 4)} {_n(c.x1)} {_n(end)}"
    return f"M{_n(c.x0)} {_n(c.y0)}V{_n(c.y1)}{bend}"


def _legend_height(content: Content) -> float:
    return _ROW * (len(content.entries) + 7)


def _legend(parent: Xml.Element, content: Content, fills: Sequence[str]) -> None:
    parent.set("class", "legend")
    key = [(0, 0.62, "filled: channels that stay; hollow: that go"), (1, 1.0, "hatched: frozen, all channels stay")]
    for row, (fill, share, text) in enumerate(key):
        _stripe_key(parent, row * _ROW, (_FAINT, _HATCH)[fill], share)
        _text(parent, 44, row * _ROW + 11, text, _SMALL, fill=_FAINT)
    y = len(key) * _ROW
    _child(parent, "path", d=f"M0 {y + 3:g}H36", stroke=_RULE, stroke_width=1.5)
    _child(parent, "path", d=f"M0 {y + 10:g}H36", stroke=_RULE, stroke_width=4)
    _text(parent, 44, y + 11, "lines: the thicker, the more channels (log scale)", _SMALL, fill=_FAINT)
    y += 2 * _ROW
    _text(parent, 0, y + 11, "Coupled masks", _NAME, weight="bold")
    names = [shortened(drawable(entry.name), 150, _SMALL) for entry in content.entries]
    start = 44 + max((text_width(name, _SMALL) for name in names), default=0.0) + 8
    for number, (entry, name) in enumerate(zip(content.entries, names, strict=True)):
        y += _ROW
        group = _child(parent, "g", transform=f"translate(0 {y:g})")
        group.set("class", "mask")
        _child(group, "title", drawable(entry.tip))
        _stripe(group, Stripe(number, 1, 1), 0, 0, 36, fills)
        _text(group, 44, 11, name, _SMALL)
        _text(group, start, 11, shortened(entry.text, _LEGEND - start, _SMALL, end=True), _SMALL, fill=_FAINT)


def _stripe_key(parent: Xml.Element, y: float, fill: str, share: float) -> None:
    _child(parent, "rect", y=y, width=36, height=_BAR, fill=_PAPER, stroke=_FAINT)
    _child(parent, "rect", y=y, width=36 * share, height=_BAR, fill=fill, stroke=_FAINT)


def _hatching(root: Xml.Element) -> None:
    """Grey stripes; no other file or style sheet is needed."""
    pattern = _child(
        _child(root, "defs"), "pattern", id="keras-qcqp-frozen", width=6, height=6, patternUnits="userSpaceOnUse"
    )
    _child(pattern, "rect", width=6, height=6, fill="#e8e8e8")
    _child(pattern, "path", d="M-1 1L1 -1M0 6L6 0M5 7L7 5", stroke="#8c8c8c", stroke_width=1.2)


def _text(
    parent: Xml.Element,
    x: float,
    y: float,
    text: str,
    size: float,
    fill: str = _INK,
    weight: str = "",
    anchor: str = "",
) -> None:
    element = _child(parent, "text", text, x=x, y=y, font_size=size, fill=fill)
    if weight:
        element.set("font-weight", weight)
    if anchor:
        element.set("text-anchor", anchor)


def _child(parent: Xml.Element, tag: str, text: str | None = None, **attributes: str | float) -> Xml.Element:
    """An element; `stroke_width` is written as stroke-width."""
    written = {
        (name if name == "patternUnits" else name.replace("_", "-")): value if isinstance(value, str) else _n(value)
        for name, value in attributes.items()
    }
    child = Xml.SubElement(parent, tag, written)
    child.text = text
    return child


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
