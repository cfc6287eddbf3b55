"""Drawings: what they say is what the coupling says, nothing overlaps, and any viewer can read them."""

from __future__ import annotations

import dataclasses
import functools
import random
import re
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from networks import NETWORKS
from selections import random_keep

import keras_qcqp
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.drawing import labels
from keras_qcqp.drawing.content import content_of
from keras_qcqp.drawing.layout import place
from keras_qcqp.drawing.palette import on, palette
from keras_qcqp.drawing.svg import write
from keras_qcqp.graph import read
from keras_qcqp.plan import Plan, plan_from

L = keras.layers
SVG = "{http://www.w3.org/2000/svg}"
DRAWN = ("residual", "dense_block", "frozen_parts", "two_by_two")


@functools.cache
def case(network: str, residual: str = "tied") -> tuple[keras.Model, Coupling, Plan]:
    model = NETWORKS[network]()
    coupling = couple(read(model), residual=residual)
    return model, coupling, plan_from(coupling, random_keep(coupling, 3))


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def boxes(root: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """Name -> group of each call; the tip begins with the full name."""
    found = [g for g in root.iter(f"{SVG}g") if g.get("class") == "call"]
    names = [re.match(r"(.*) \(\w+\)$", g.find(f"{SVG}title").text.splitlines()[0]).group(1) for g in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def texts(group: ElementTree.Element) -> list[str]:
    return [t.text for t in group.iter(f"{SVG}text")]


def fills(group: ElementTree.Element) -> dict[int, str]:
    """Mask -> the colour that the stripes of a box have; hollow parts have it as their outline."""
    return {int(r.get("data-mask")): r.get("fill") for r in group.iter(f"{SVG}rect") if r.get("data-mask")}


@pytest.mark.parametrize("network", DRAWN)
def test_one_box_for_each_call_with_its_masks_and_widths(network):
    model, coupling, plan = case(network)
    drawn = boxes(parsed(keras_qcqp.plot(model, plan).svg))
    assert list(drawn) == [n.name for n in coupling.graph.nodes]
    colours: dict[int, set[str]] = {}
    for node in coupling.graph.nodes:
        ids = coupling.specs[node.name].outputs[0].ids
        assert set(fills(drawn[node.name])) == set(coupling.mask_of[ids].tolist())
        for mask, colour in fills(drawn[node.name]).items():
            colours.setdefault(mask, set()).add(colour)
        assert node.name in texts(drawn[node.name])
        if node.layer in plan.layers:
            size, index = plan[node.layer].out_size[0], plan[node.layer].out_index[0]
            width = f"{size}" if len(index) == size else f"{size} \u2192 {len(index)}"
            assert width in texts(drawn[node.name])
    assert all(len(c) == 1 for c in colours.values())
    free = [c.pop() for mask, c in colours.items() if not coupling.masks[mask].frozen]
    assert len(set(free)) == len(free)
    assert {c.pop() for mask, c in colours.items() if coupling.masks[mask].frozen} == {"url(#keras-qcqp-frozen)"}
    assert not any(c.startswith("url") for c in free)


def test_without_a_plan_nothing_is_hollow():
    model, _, _ = case("residual")
    root = parsed(keras_qcqp.plot(model).svg)
    assert "\u2192" not in "".join(t for group in boxes(root).values() for t in texts(group))
    assert "#ffffff" not in {c for group in boxes(root).values() for c in fills(group).values()}


def test_stripes_are_as_wide_as_their_shares():
    model, _, plan = case("dense_block")
    join = boxes(parsed(keras_qcqp.plot(model, plan).svg))["join2"]
    whole: dict[str, float] = {}
    kept: dict[str, float] = {}
    for rect in join.iter(f"{SVG}rect"):
        if rect.get("data-mask"):
            mask, width = rect.get("data-mask"), float(rect.get("width"))
            whole[mask] = max(whole.get(mask, 0.0), width)
            kept[mask] = width  # the filled part is drawn last
    unit = sum(whole.values()) / 14
    sizes = [len(plan[name].out_index[0]) for name in ("x0", "x1", "x2")]
    assert list(whole.values()) == pytest.approx([6 * unit, 4 * unit, 4 * unit], abs=0.02)
    assert list(kept.values()) == pytest.approx([n * unit for n in sizes], abs=0.02)


def test_what_is_frozen_is_seen_and_told():
    model, coupling, _ = case("frozen_parts")
    root = parsed(keras_qcqp.plot(model).svg)
    norm, mixing = boxes(root)["layer_norm"], boxes(root)["mixing"]
    assert texts(norm)[-2:] == ["frozen: mean and variance", "over channels change with…"]
    assert texts(mixing)[-2].startswith("frozen: softmax over")
    for name, group in (("layer_norm", norm), ("mixing", mixing)):
        reason = next(f.reason for f in coupling.frozen if f.node == name)
        assert reason in group.find(f"{SVG}title").text
    assert "mask 1 a (frozen at layer_norm)" in boxes(root)["a"].find(f"{SVG}title").text
    entries = [g for g in root.iter(f"{SVG}g") if g.get("class") == "mask"]
    assert [texts(e)[1:] for e in entries][:2] == [
        ["image", "3, input of the network"],
        ["a", "5, frozen at layer_norm"],
    ]
    assert "output of the network" in texts(boxes(root)["head"])


def test_the_legend_names_every_mask_in_its_colour():
    model, coupling, plan = case("residual", "union")
    root = parsed(keras_qcqp.plot(model, plan).svg)
    entries = [g for g in root.iter(f"{SVG}g") if g.get("class") == "mask"]
    assert [texts(e)[1] for e in entries] == [m.name for m in coupling.masks]
    seen = {mask: c for group in boxes(root).values() for mask, c in fills(group).items()}
    assert {mask: c for e in entries for mask, c in fills(e).items()} == seen
    stem = entries[1].find(f"{SVG}title").text
    assert stem.splitlines()[:2] == ["stem_conv: 8", "read by a1_conv, sum_a"]


def test_a_mask_inside_a_layer_is_a_line_in_its_box():
    _, coupling, _ = case("residual")
    mask = dataclasses.replace(coupling.masks[1], name="a1_conv/heads", size=4)
    mask_of = np.concatenate([coupling.mask_of, np.full(4, len(coupling.masks))])
    wider = dataclasses.replace(coupling, masks=(*coupling.masks, mask), mask_of=mask_of)
    alive = np.ones(len(mask_of), bool)
    alive[-1] = False
    root = parsed(write(content_of(wider, alive))[0])
    assert texts(boxes(root)["a1_conv"])[-1] == "6 heads: 4 \u2192 3"
    assert texts([g for g in root.iter(f"{SVG}g") if g.get("class") == "mask"][-1])[1:] == [
        "a1_conv/heads",
        "4 \u2192 3",
    ]


def test_any_name_can_be_drawn():
    name = "conv<&\"'>\x07\u5c42" + "x" * 60
    image = keras.Input((4, 4, 3), name="image")
    model = keras.Model(image, L.Conv2D(2, 1, name=name)(image), name="a<b>&c")
    root = parsed(keras_qcqp.plot(model).svg)
    safe = name.replace("\x07", "\ufffd")
    box = boxes(root)[safe]
    shown = texts(box)[0]
    assert shown.startswith("conv<&\"'>\ufffd\u5c42x") and shown.endswith("x") and "\u2026" in shown
    assert labels.text_width(shown, 12) <= float(box.find(f"{SVG}rect").get("width"))
    assert root.find(f"{SVG}title").text == "a<b>&c"


def test_the_file_stands_alone_and_speaks_to_screen_readers():
    model, _, plan = case("two_by_two")
    drawing = keras_qcqp.plot(model, plan)
    root = parsed(drawing.svg)
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert (root.get("role"), root.get("width"), root.get("height")) == ("img", str(drawing.width), str(drawing.height))
    assert not re.search(r"href|<script|<style|http://(?!www\.w3\.org/2000/svg\")|https:", drawing.svg)
    assert drawing._repr_svg_() == drawing.svg
    assert repr(drawing) == f"Drawing(title='two_by_two', width={drawing.width}, height={drawing.height})"


def test_the_same_bytes_twice_and_in_the_file(tmp_path):
    model, _, plan = case("two_by_two")
    first = keras_qcqp.plot(model, plan, to_file=tmp_path / "a.svg")
    keras_qcqp.plot(NETWORKS["two_by_two"](), plan).save(tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == first.svg
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_what_cannot_be_drawn(tmp_path):
    model, _, plan = case("residual", "union")
    with pytest.raises(keras_qcqp.ModelError, match="Keras"):
        keras_qcqp.plot("model.keras")
    with pytest.raises(keras_qcqp.PlanError, match=r"plan must be a Plan, got str\. Plan\.load\(path\) reads a file"):
        keras_qcqp.plot(model, "plan.json")
    with pytest.raises(keras_qcqp.PlanError, match="The plan was made for model 'residual' and does not fit 'chain'"):
        keras_qcqp.plot(NETWORKS["chain"](), plan)
    with pytest.raises(keras_qcqp.PlanError, match="The plan has residual='union', not 'tied'. Leave residual out."):
        keras_qcqp.plot(model, plan, residual="tied")
    with pytest.raises(keras_qcqp.ModelError, match="residual='both' is unknown"):
        keras_qcqp.plot(model, residual="both")
    with pytest.raises(keras_qcqp.FileError, match="the directory '.*no' does not exist"):
        keras_qcqp.plot(model, to_file=tmp_path / "no" / "a.svg")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(12))
def test_neither_boxes_nor_lines_run_over_boxes(seed):
    """Random graphs: lines are straight beside boxes, and bend only between rows, where no box stands."""
    draw = random.Random(seed)
    count = draw.randint(2, 40)
    sizes = [(120.0, draw.choice([40.0, 58.0, 90.0])) for _ in range(count)]
    wires = []
    for source in range(count - 1):
        later = [min(source + 1 + int(draw.expovariate(0.4)), count - 1) for _ in range(draw.choice([0, 1, 1, 2, 4]))]
        wires += [(source, tuple(sorted(set(later))))] * bool(later)
    layout = place(sizes, wires)
    frames = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(layout.corners, sizes, strict=True)]
    for number, (left, top, right, bottom) in enumerate(frames):
        assert left >= 0 and top >= 0 and right <= layout.width + 1e-6 and bottom <= layout.height + 1e-6
        for other in frames[:number]:
            apart = left >= other[2] + 10 or right <= other[0] - 10 or top >= other[3] + 10 or bottom <= other[1] - 10
            assert apart
    for (source, targets), curves in zip(wires, layout.curves, strict=True):
        assert {c.y2 for c in curves if c.arrives} == {frames[t][1] for t in targets}
        assert all(frames[t][1] > frames[source][3] for t in targets)
        for c in curves:
            for left, top, right, bottom in frames:
                assert not (left < c.x0 < right and c.y0 < bottom and top < c.y1), "straight through a box"
                assert bottom <= c.y1 or top >= c.y2, "bent over a box"


def test_a_chain_is_a_straight_line():
    layout = place([(100.0, 40.0)] * 5, [(k, (k + 1,)) for k in range(4)])
    assert {x for x, _ in layout.corners} == {0.0}
    assert all(c.x0 == c.x1 for curves in layout.curves for c in curves)


def test_many_masks_have_many_colours():
    colours = palette(1000)
    assert len(set(colours)) == 1000 and all(re.fullmatch("#[0-9a-f]{6}", c) for c in colours)
    assert palette(7) == colours[:7]
    for colour in colours:
        assert contrast(colour, on(colour)) > 4.5
    for colour in colours[:7]:
        assert contrast(colour, "#ffffff") > 2


def contrast(a: str, b: str) -> float:
    """WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_texts_are_shortened_where_it_hurts_least():
    assert labels.shortened("block_12_project_BN", 200, 12) == "block_12_project_BN"
    assert labels.shortened("block_12_project_BN", 80, 12) == "block\u2026t_BN"
    assert labels.shortened("no rule for it", 80, 12, end=True) == "no rule f\u2026"
    assert labels.wrapped("one two three four", 60, 12, 2) == ["one two", "three f\u2026"]


def test_large_networks_are_drawn_in_a_moment():
    """Every layer reads all before it: hundreds of lines, thousands of bends."""
    x = image = keras.Input((4, 4, 3), name="image")
    for k in range(30):
        x = L.Concatenate(name=f"join{k}")([x, L.Conv2D(4, 1, name=f"conv{k}")(L.ReLU(name=f"act{k}")(x))])
    drawing = keras_qcqp.plot(keras.Model(image, x, name="dense"))
    assert len(boxes(parsed(drawing.svg))) == 91
    assert drawing.width < 1000
