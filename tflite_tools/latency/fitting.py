"""Fits a latency model: cut the network up, resize the pieces, measure them, fit, and try it on whole networks."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tflite_tools.devices import Device
from tflite_tools.devices.base import DEFAULT_DELEGATE
from tflite_tools.errors import ProfileError
from tflite_tools.flatbuffer import TfliteFacts, TfliteSource, read_bytes, read_facts
from tflite_tools.latency.calibration import Whole, corrected, only
from tflite_tools.latency.costing import CostSource, DeviceCosts, place_of
from tflite_tools.latency.design import Design, plan_points
from tflite_tools.latency.flat_graph import FlatGraph, read_graph
from tflite_tools.latency.forms import NAMES, Samples, fit_all, fit_multiples, quality
from tflite_tools.latency.geometry import Geometry, Widths, fingerprint, geometries
from tflite_tools.latency.journal import Journal
from tflite_tools.latency.model import LatencyModel, Row, RowFit, fitted_row
from tflite_tools.latency.networks import Resizable

Tell = Callable[[str], None]
_PASSES = 2
_WHOLE = 10.0


@dataclass(frozen=True)
class FitOptions:
    """How much to measure.

    Attributes:
        seconds: about how long to measure in all; more rounds are steadier. Estimators take as long as they take.
        multiple: measure every multiple of this width instead of a few points; for devices whose costs no formula fits.
        num_calibration: whole networks of random widths that correct the sum over operators.
        num_held_out: further ones that only judge it.
        num_threads: of each run.
        delegate: who computes, by a name of the device.
        seed: of widths and networks.

    Raises:
        ProfileError: a number out of range.
    """

    seconds: float = 20.0
    multiple: int | None = None
    num_calibration: int = 12
    num_held_out: int = 8
    num_threads: int = 1
    delegate: str = DEFAULT_DELEGATE
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.num_calibration, self.num_held_out, self.seed)
        if (
            self.seconds <= 0
            or min(counts) < 0
            or self.num_threads < 1
            or (self.multiple is not None and self.multiple < 1)
        ):
            raise ProfileError(f"{self} makes no sense: seconds, threads and multiples are above 0, counts at least 0.")


def fit_latency(
    model: TfliteSource,
    device: str | Device | CostSource = "host",
    options: FitOptions | None = None,
    resume: str | None = None,
    progress: Tell | None = None,
) -> LatencyModel:
    """Fits what a network costs on a device, at every width of its layers.

    Each distinct geometry of its operators is cut out of the file and measured at a grid of widths; nothing is
    converted again. Whole networks of random widths then correct the sum, and further ones judge it.

    Args:
        model: the `.tflite` file of the network that will be pruned, as path or bytes.
        device: a name that `get_device` knows, a `Device`, or any `CostSource`.
        resume: a file that keeps every measurement; where it exists, only what is missing is measured. It must
            belong to the same model, device and options.
        progress: called with lines of text.

    Raises:
        TfliteFileError: the file is missing, damaged, or of several graphs.
        DeviceError: unknown device, or a piece does not run on it.
        ProfileError: options make no sense, or `resume` belongs to another fit.
        OutputFileError: `resume` cannot be written.
    """
    began, chosen, tell = time.perf_counter(), options or FitOptions(), progress or (lambda line: None)
    source = device if isinstance(device, CostSource) else DeviceCosts(device, chosen.num_threads, chosen.delegate)
    data = read_bytes(model)
    facts, graph = read_facts(model), read_graph(model)
    recipe = _recipe(graph, facts)
    rows, uses = geometries(graph)
    designs = [plan_points(row, chosen.seed, chosen.multiple) for row in rows]
    networks = _networks(Resizable(graph), chosen)
    mark = fingerprint(data)
    place = place_of(source.environment())
    identity = {"model": mark, "device": source.name, "place": place, "options": asdict(chosen)}
    journal = Journal(resume, identity)
    batches = _batches(rows, designs, {"whole": data, **{name: built[0] for name, built in networks.items()}})
    _measure(batches, source, journal, _Plan(chosen.seconds, tell))
    tell("fitting")
    costs = journal.costs
    found = LatencyModel(
        name=Path(model).stem if not isinstance(model, (bytes, bytearray, memoryview)) else "model",
        device=source.name,
        num_threads=source.num_threads,
        deterministic=source.deterministic,
        recipe=recipe,
        fingerprint=mark,
        environment=source.environment(),
        settings=asdict(chosen),
        ops=uses,
        rows=tuple(
            _row(row, design, costs, k, chosen.multiple)
            for k, (row, design) in enumerate(zip(rows, designs, strict=True))
        ),
        measured_ms=costs["whole"],
    )
    return dataclasses.replace(_judged(found, networks, costs), seconds=time.perf_counter() - began)


def _recipe(graph: FlatGraph, facts: TfliteFacts) -> str:
    """The number format that a budget has to convert to, so that what is verified is what was fitted.

    Raises:
        ProfileError: it is neither float32 nor int8.
    """
    if facts.has_int8_activations:
        return "int8"
    others = sorted({t.dtype for t in graph.tensors if t.dtype not in _PLAIN} - {""})
    if others:
        raise ProfileError(
            f"Latency models are made of float32 and of full int8 files; this one holds {', '.join(others)}. Convert "
            "the network with the recipe float32 or int8."
        )
    return "float32"


_PLAIN = ("float32", "int32", "int64", "bool")
_Built = tuple[bytes, tuple[Widths, ...]]
_Make = Callable[[], bytes]


def _networks(network: Resizable, options: FitOptions) -> dict[str, _Built]:
    """Whole networks of random widths, those for calibration first."""
    num = options.num_calibration + options.num_held_out if network.sizes else 0
    seeds, multiple = range(options.seed + 1000, options.seed + 1000 + num), options.multiple or 1
    return {f"net{k}": network.model(network.random(seed, multiple)) for k, seed in enumerate(seeds)}


def _name(row: int, widths: Widths) -> str:
    return f"{row}:{widths[0] or 0}:{widths[1] or 0}"


def _batches(
    rows: Sequence[Geometry], designs: Sequence[Design], wholes: Mapping[str, bytes]
) -> list[dict[str, _Make]]:
    """All models by name, each made when its turn comes: whole networks, then one geometry after the other."""
    batches: list[dict[str, _Make]] = [{name: partial(bytes, data) for name, data in wholes.items()}]
    for number, (row, design) in enumerate(zip(rows, designs, strict=True)):
        batches.append({_name(number, widths): partial(row.model, widths) for widths in design.all()})
    return batches


def _measure(batches: Sequence[Mapping[str, _Make]], source: CostSource, journal: Journal, plan: _Plan) -> None:
    """Measures what is not in the journal yet; all batches twice, far apart, since a busy neighbour may stay long."""
    passes = 1 if source.deterministic else _PASSES
    total = passes * sum(map(len, batches))
    done = 0
    for number in range(passes):
        for batch in batches:
            done += len(batch)
            missing = journal.missing(batch, number)
            if missing:
                plan.tell(f"measuring: {done} of {total}")
                # A whole network has many operators.
                weight = _WHOLE if batch is batches[0] else 1.0
                seconds = plan.seconds * weight * len(missing) / total
                journal.add(source.costs({name: batch[name]() for name in missing}, seconds))


@dataclass(frozen=True)
class _Plan:
    seconds: float
    tell: Tell


def _row(row: Geometry, design: Design, costs: Mapping[str, float], number: int, multiple: int | None) -> Row:
    def samples(points: Sequence[Widths]) -> Samples:
        listed = [(w[0] or 0, w[1] or 0, max(costs[_name(number, w)], 1e-9)) for w in dict.fromkeys(points)]
        return np.array(listed, np.float64).reshape(-1, 3)

    train, held_out = samples((*design.grid, *design.scattered)), samples(design.held_out)
    if multiple is None:
        forms = fit_all(train, samples(design.grid), (row.spans[0] is not None, row.spans[1] is not None))
    else:
        forms = fit_multiples(train, int(np.lcm(row.multiple, multiple)))
    return fitted_row(row.kind, row.key, row.spans, row.multiple, forms, RowFit(train, held_out))


def _judged(model: LatencyModel, networks: Mapping[str, _Built], costs: Mapping[str, float]) -> LatencyModel:
    """With its quality on whole networks that nothing was fitted to; each form alone is calibrated like the choice."""
    listed = list(networks.items())
    num = int(model.settings["num_calibration"])
    calibration, held_out = listed[:num], listed[num:]

    def pairs(some: Sequence[tuple[str, _Built]]) -> list[Whole]:
        return [(widths, costs[name]) for name, (_, widths) in some]

    found = corrected(model, pairs(calibration))
    if not held_out:
        return found
    measured = np.array([cost for _, cost in pairs(held_out)])
    whole = {}
    fitted = [form for form in NAMES if any(form in row.forms for row in model.rows)]
    for form in ("chosen", *fitted):
        candidate = found if form == "chosen" else corrected(only(model, form), pairs(calibration))
        predicted = np.array([candidate.predict(widths) for _, (_, widths) in held_out])
        whole[form] = quality(predicted, measured)
        if form == "chosen":
            found = dataclasses.replace(found, wholes=np.c_[predicted, measured])
    return dataclasses.replace(found, whole=whole)
