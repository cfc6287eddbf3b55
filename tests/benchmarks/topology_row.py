"""One network nobody here drew, from reading it to its .tflite file: a row of `tests.benchmarks.topologies`.

python -m tests.benchmarks.topology_row names keras names.json 'ResNet*'
python -m tests.benchmarks.topology_row row keras row.json ResNet50 0.5 10    # share of the MACs, seconds of the solver
"""

from __future__ import annotations

import collections
import json
import os
import resource as system
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_qcqp
import tflite_tools
from keras_qcqp import build, coupling, graph, importance, keras_graph, plan, resources, solvers
from keras_qcqp.importance.evidence import Evidence
from keras_qcqp.limits.allowed import allowed_masks
from keras_qcqp.limits.budget import Budget
from tests.benchmarks import zoos

Row = dict[str, Any]
Arrays = list[np.ndarray]
TOLERANCE = 1e-4
"""Greatest difference, relative to the greatest output, that is put down to float32."""


def row_of(zoo: str, name: str, fraction: float = 0.5, time_limit_s: float = 10.0) -> Row:
    """Everything that is measured of one model; the rest goes on where a part fails.

    `failures` are ours, stage by stage; `theirs` is what the unpruned model cannot do either.
    """
    row: Row = {"zoo": zoo, "model": name, "failures": {}, "theirs": {}}
    try:
        row["side"], model = zoos.ZOOS[zoo].smallest(zoos.ZOOS[zoo].find()[name])
    except ValueError as error:
        row["theirs"]["build"] = _one_line(error)
    else:
        _measure(row, model, fraction, time_limit_s)
    row["mib"] = system.getrusage(system.RUSAGE_SELF).ru_maxrss // 1024
    return row


def _measure(row: Row, model: keras.Model, fraction: float, time_limit_s: float) -> None:
    shake(model)
    try:
        calibrate(model)
    except Exception as error:
        row["theirs"]["run"] = _one_line(error)
        return
    began = time.perf_counter()
    coupled = _try(row, "couple", lambda: coupling.couple(graph.read(model)))
    if coupled is None:
        return
    row["couple_s"] = time.perf_counter() - began
    row |= described(coupled)
    chosen = _try(row, "solve", lambda: _solved(row, model, coupled, fraction, time_limit_s))
    if chosen is None:
        return
    began = time.perf_counter()
    smaller = _try(row, "rebuild", lambda: keras_qcqp.rebuild(model, chosen))
    row["rebuild_s"] = time.perf_counter() - began
    if smaller is None:
        if _try(row, "rebuild", lambda: keras.models.clone_model(model), "theirs") is None:
            del row["failures"]["rebuild"]  # their layers do not accept their own configuration
        return
    counted = keras_qcqp.measure(smaller)[row["resource"]]
    if counted != row["usage"]:
        row["failures"]["usage"] = f"{row['usage']:,} promised, the rebuilt model has {counted:,}"
    arrays = inputs(model)
    _try(row, "law", lambda: _law(row, model, smaller, chosen, arrays))
    row["round_trip"] = _try_both(row, "round trip", smaller, model, lambda m: _round_trip(m, arrays))
    convert = lambda m: len(tflite_tools.convert(m, "float32"))  # noqa: E731
    row["tflite_bytes"] = _try_both(row, "tflite", smaller, model, convert)


def _try(row: Row, stage: str, work: Callable[[], Any], blame: str = "failures") -> Any:
    """What the work returns; None, and a line in the row, if it fails."""
    try:
        return work()
    except Exception as error:
        row[blame][stage] = _one_line(error)
        return None


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def _try_both(row: Row, stage: str, smaller: keras.Model, model: keras.Model, work: Callable[..., Any]) -> Any:
    """What the work on the smaller model returns; if it fails, and on the unpruned one too, we are not to blame."""
    done = _try(row, stage, lambda: work(smaller))
    if done is None and _try(row, stage, lambda: work(model), "theirs") is None:
        del row["failures"][stage]
    return done


def described(coupled: coupling.Coupling) -> Row:
    """What the coupling says before anything is solved."""
    name = "macs" if _countable(coupled, "macs") else "params"
    counted = resources.resource(coupled, name)
    full = counted.usage([m.size for m in coupled.masks])
    least = counted.usage([m.allowed[0] for m in allowed_masks(coupled, keras_qcqp.Widths(min_keep=1))])
    nodes = coupled.first_calls()
    kinds = collections.Counter(f.kind for f in coupled.frozen if not f.tied)
    uncounted = collections.Counter(n.kind for n in nodes if _has_kernel(n) and not coupled.specs[n.name].macs)
    return {
        "resource": name,
        "full": full,
        "num_layers": sum(bool(coupled.specs[n.name].macs) for n in nodes),
        "prunable": prunable_share(coupled) if name == "macs" else None,
        "lowest": least / full if full else None,
        "frozen": dict(kinds.most_common()),
        "reasons": dict(
            collections.Counter(f"{f.kind}: {f.reason}" for f in coupled.frozen if not f.tied).most_common(8)
        ),
        "uncounted": dict(uncounted),
    }


def _countable(coupled: coupling.Coupling, name: str) -> bool:
    try:
        return resources.resource(coupled, name).usage([m.size for m in coupled.masks]) > 0
    except keras_qcqp.BudgetError:
        return False


def _has_kernel(node: graph.Node) -> bool:
    """Whether the layer multiplies matrices: MACs of layers without a rule are not counted."""
    return any(len(w.shape) > 1 for w in node.weights.values())


def prunable_share(coupled: coupling.Coupling) -> float:
    """MACs of kernels with at least one axis that is not frozen through and through, as a share of all."""
    free = np.array([not m.frozen for m in coupled.masks], bool)
    full, prunable = 0, 0
    for term in resources.COUNTERS["macs"][1](coupled, "float32"):
        macs = term.value(np.ones(len(coupled.mask_of), bool))
        full += macs
        if any(free[coupled.mask_of[ids]].any() for ids in term.factors):
            prunable += macs
    return prunable / full if full else 0.0


def _solved(row: Row, model: keras.Model, coupled: coupling.Coupling, fraction: float, limit_s: float) -> plan.Plan:
    """Half of the MACs, or what can be reached with the usual widths, or everything where nothing can go."""
    widths = keras_qcqp.Widths()
    counted = resources.resource(coupled, row["resource"])
    least = counted.usage([m.allowed[0] for m in allowed_masks(coupled, widths)])
    if least >= row["full"]:
        row |= {"kept": 1.0, "usage": row["full"], "solve_s": 0.0}
        return plan.plan_from(coupled, tuple(np.ones(m.size, bool) for m in coupled.masks))
    began = time.perf_counter()
    budget = Budget(**{row["resource"]: max(least, int(fraction * row["full"]))})
    scores = importance.criterion("magnitude")(Evidence(coupled, keras_graph.weight_values(model)))
    problem, _ = build.build_problem(coupled, scores, budget, widths)
    solution = solvers.solve(problem, time_limit_s=limit_s)
    usage = solution.usage[row["resource"]]
    row |= {"kept": usage / row["full"], "usage": usage, "solve_s": time.perf_counter() - began, "gap": solution.gap}
    return plan.plan_from(coupled, solution.keep)


def _law(row: Row, model: keras.Model, smaller: keras.Model, chosen: plan.Plan, arrays: Arrays) -> None:
    """Its error, and what the masks and another input change at all: the law says nothing of what has no effect.

    Deep networks with random weights amplify rounding. Where the masked original itself changes as much when its input
    changes by 1e-7, float32 says nothing, and the same is done in float64 (there 1e-15).
    """
    reference = keras_qcqp.masked(model, chosen)
    row["noise"] = _noise(reference, arrays, 1e-7)
    if row["noise"] > TOLERANCE / 10:
        model, reference, smaller = _in_float64(row, model, chosen)
        arrays = [x.astype("float64") if x.dtype.kind == "f" else x for x in arrays]
        row["noise"] = _noise(reference, arrays, 1e-15)
    wanted, before = outputs(reference, arrays), outputs(model, arrays)
    row["law"] = _difference(outputs(smaller, arrays), wanted)
    row["effect"], row["reach"] = _difference(before, wanted), _difference(outputs(model, inputs(model, 2)), before)
    if not row["law"] <= max(TOLERANCE, 10 * row["noise"]):  # also NaN
        row["failures"]["law"] = f"relative error {row['law']:.2g}"
    elif (row["kept"] < 1 and row["effect"] < 100 * row["law"]) or row["reach"] < 100 * row["law"]:
        said = f"the masks change the outputs by {row['effect']:.2g} only, another input by {row['reach']:.2g}"
        row["failures"]["law"] = f"says little: {said}"


def _noise(model: keras.Model, arrays: Arrays, step: float) -> float:
    """What a model makes of its inputs changed by a relative `step`."""
    nudged = [(x * (1 + step)).astype(x.dtype) if x.dtype.kind == "f" else x for x in arrays]
    return _difference(outputs(model, nudged), outputs(model, arrays))


def _in_float64(row: Row, model: keras.Model, chosen: plan.Plan) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The model, its masked original and the rebuilt one, with the same weights in float64."""
    keras.backend.clear_session()  # automatic names begin anew
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        twin = zoos.ZOOS[row["zoo"]].find()[row["model"]](row["side"])
        twin.set_weights(model.get_weights())
        return twin, keras_qcqp.masked(twin, chosen), keras_qcqp.rebuild(twin, chosen)
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


def _difference(got: Arrays, wanted: Arrays) -> float:
    pairs = [(a, b) for a, b in zip(got, wanted, strict=True) if a.dtype.kind == "f"]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def _round_trip(model: keras.Model, arrays: Arrays) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        loaded = keras.models.load_model(path, compile=False)
    pairs = zip(outputs(loaded, arrays), outputs(model, arrays), strict=True)
    if not all(np.array_equal(a, b) for a, b in pairs):
        raise ValueError("the loaded model predicts something else")
    return True


def shake(model: keras.Model, seed: int = 0) -> None:
    """Constant weights get values that matter: shifts, slopes, statistics, layer scales of one in a million."""
    random = np.random.default_rng(seed)
    for variable in model.weights:
        value = keras.ops.convert_to_numpy(variable)
        if not variable.dtype.startswith("float") or not value.size or value.min() != value.max():
            continue
        around_zero = not value.flat[0] or variable.name == "moving_mean"
        new = random.normal(0, 0.1, value.shape) if around_zero else random.uniform(0.5, 1.5, value.shape)
        variable.assign(new.astype(value.dtype))
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def calibrate(model: keras.Model) -> None:
    """Batch norms get the statistics of random samples; else signals die out on their way through a random network."""
    norms = [x for x in model._flatten_layers() if isinstance(x, keras.layers.BatchNormalization)]
    momenta = [x.momentum for x in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(_packed(model, inputs(model, 3, count=8)), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def inputs(model: keras.Model, seed: int = 1, count: int = 1) -> Arrays:
    """Random samples for each input; images in 0..255 where the model itself rescales them."""
    random = np.random.default_rng(seed)
    own = (keras.layers.Rescaling, keras.layers.Normalization)
    low, high = (0, 255) if any(isinstance(layer, own) for layer in model._flatten_layers()) else (-1, 1)
    arrays = []
    for x in model.inputs:
        shape = (count, *(16 if size is None else size for size in x.shape[1:]))
        dtype = keras.backend.standardize_dtype(x.dtype)
        whole = dtype.startswith(("int", "uint", "bool"))
        arrays.append((random.integers(0, 2, shape) if whole else random.uniform(low, high, shape)).astype(dtype))
    return arrays


def outputs(model: keras.Model, arrays: Arrays) -> Arrays:
    """Flat list of outputs in inference mode."""
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(_packed(model, arrays), training=False))]


def _packed(model: keras.Model, arrays: Arrays) -> Any:
    return keras.tree.pack_sequence_as(keras_graph.structures(model)[0], arrays)


def main(what: str, zoo: str, output: str, *wanted: str) -> None:
    if what == "names":
        found: Any = zoos.ZOOS[zoo].names(wanted)
    else:
        model, fraction, time_limit_s = wanted
        found = row_of(zoo, model, float(fraction), float(time_limit_s))
    Path(output).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
