"""What the package does with every built-in layer and operation, found out by trying: the two tables of the README.

Run: python -m tests.catalogue          # print both tables
     python -m tests.catalogue --write  # put them into README.md
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import inspect
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from keras_qcqp import rules
from keras_qcqp.channels import Frozen
from keras_qcqp.coupling import Coupling, couple
from keras_qcqp.graph import Node, read
from keras_qcqp.rules import operations
from tests.probes import NO_PROBE, PROBES, Probe

README = Path(__file__).resolve().parents[1] / "README.md"
VERDICTS = ("prunable", "passes", "ties", "input", "frozen", "never in a graph")


@dataclasses.dataclass(frozen=True)
class Found:
    """What a layer class turned out to do.

    Attributes:
        verdict: one of `VERDICTS`.
        remark: what else there is to say; of a frozen one, why.
    """

    verdict: str
    remark: str = ""


def layer_classes() -> dict[str, list[str]]:
    """Name of every public layer class of the installed Keras -> its aliases."""
    public = {name: getattr(keras.layers, name) for name in dir(keras.layers)}
    layers = {n: c for n, c in public.items() if inspect.isclass(c) and issubclass(c, keras.layers.Layer)}
    found: dict[str, list[str]] = {}
    for name, cls in sorted(layers.items()):
        canonical = cls.__name__ if layers.get(cls.__name__) is cls else name
        found.setdefault(canonical, [])
        if name != canonical:
            found[canonical].append(name)
    return found


def layer_operations() -> list[str]:
    """Every public function of keras.ops, first-level names only."""
    return sorted(n for n in dir(keras.ops) if inspect.isfunction(getattr(keras.ops, n)) and not n.startswith("_"))


def judge(name: str, probe: Probe) -> Found:
    """Couples a probe and looks at what the layer did to channels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = probe.build()
    except ImportError:
        return Found("frozen", _said_without_trying(name))
    except ValueError:
        return Found("never in a graph", "Keras cannot build a Functional model with it")
    coupling = couple(read(model))
    (node,) = (n for n in coupling.graph.nodes if n.layer == "probe")
    return classify(coupling, node)


def _said_without_trying(name: str) -> str:
    """The reason of a rule that freezes whatever it is given."""
    rule = rules.find(getattr(keras.layers, name))
    assert rule is not None, f"{name} has neither a probe that runs here nor a rule"
    try:
        rule(SimpleNamespace(node=SimpleNamespace(kind=name), inputs=()))  # type: ignore[arg-type]
    except Frozen as verdict:
        return str(verdict)
    raise AssertionError(f"the rule for {name} must be tried, but its probe cannot run here")


def classify(coupling: Coupling, node: Node) -> Found:
    """The verdict on one call, from the ids that came in, went out, and were made, and from what was said."""
    spec, inputs, frozen = coupling.specs[node.name], coupling.inputs[node.name], coupling.is_frozen
    given = [x.ids for x in inputs]
    made = np.setdiff1d(_all(spec.held), _all(given))
    passed = np.intersect1d(_all(x.ids for x in spec.outputs), _all(given))
    free_made, free_passed = made[~frozen[made]], passed[~frozen[passed]]
    told = [_anonymous(f.reason, node.kind) for f in coupling.frozen if f.node == node.name]
    reasons = "; ".join(dict.fromkeys(told))
    if len(free_made):
        return Found("prunable", _listed(_inside(spec.hidden, frozen), _exactly(spec), reasons))
    if len(given) > 1 and all(np.array_equal(given[0], ids) for ids in given[1:]) and not frozen[given[0]].all():
        return Found("ties", _listed(_exactly(spec), reasons))
    if len(free_passed):
        return Found("passes", _listed(_moved(given, spec), _exactly(spec), reasons))
    free_given = _all(given)[~frozen[_all(given)]]
    if len(free_given):
        return Found("passes", _listed("reads channels and passes none on", _exactly(spec), reasons))
    return Found("frozen", reasons) if reasons else Found("input")


def _all(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate([np.zeros(0, int), *arrays]))


def _inside(hidden: Any, frozen: np.ndarray) -> str:
    names = [h.name + (" (kept whole)" if frozen[h.ids].all() else "") for h in hidden]
    return f"widths inside: {', '.join(names)}" if names else ""


def _listed(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _exactly(spec: Any) -> str:
    """How a call that reads channels without a kernel stays exact."""
    if spec.after or spec.slicer:
        return "corrected exactly"
    return "exact: dropped channels count as zero" if spec.zeroed else ""


def _moved(given: list[np.ndarray], spec: Any) -> str:
    out = spec.outputs[0].ids
    words = []
    if len(given) > 1 and len(out) > max(map(len, given)):
        words.append("side by side")
    elif len(np.unique(out)) < len(out):
        words.append("each channel several times")
    if any(axis is not None for axes in spec.weights.values() for axis in axes):
        words.append("its weights are sliced")
    return ", ".join(words)


def _anonymous(reason: str, kind: str) -> str:
    """The same words for all classes, so that they can share a row."""
    if "third free width" in reason:
        return "kept whole: free where the layer's inputs or outputs are frozen, else a third free width in one product"
    reason = re.sub(r"; add one with keras_qcqp.register_rule\(\w+, rule\)", "", reason)
    reason = re.sub(rf"no rule for layer class {kind}\b", "no rule yet", reason)
    return re.sub(rf"\b{kind}\b", "it", reason)


def catalogue() -> dict[str, list[tuple[str, Found]]]:
    """Class name -> (how it was called, what it does) for every layer class of the installed Keras."""
    found = {}
    for name in layer_classes():
        if name in NO_PROBE:
            found[name] = [("", Found("never in a graph", NO_PROBE[name]))]
        else:
            found[name] = [(probe.how, judge(name, probe)) for probe in PROBES[name]]
    return found


def layer_table(found: Mapping[str, list[tuple[str, Found]]]) -> str:
    """One row for all classes with the same verdict and remark."""
    aliases = layer_classes()
    rows: dict[Found, list[str]] = collections.defaultdict(list)
    for name, cases in found.items():
        verdicts = {verdict for _, verdict in cases}
        for how, verdict in cases if len(verdicts) > 1 else cases[:1]:
            shown = f"{name} ({how})" if how and len(verdicts) > 1 else name
            rows[verdict].append(shown)
    also = sorted(f"{alias} = {name}" for name, names in aliases.items() for alias in names)
    lines = ["| what happens | layers | remark |", "|---|---|---|"]
    for verdict in sorted(rows, key=lambda v: (VERDICTS.index(v.verdict), -len(rows[v]), v.remark)):
        lines.append(f"| {verdict.verdict} | {', '.join(_families(rows[verdict]))} | {verdict.remark} |")
    return "\n".join([*lines, "", f"Other names of the same: {', '.join(_families(also))}."])


def _families(names: Iterable[str]) -> list[str]:
    """`Conv1D, Conv2D, Conv3D` -> `Conv1/2/3D`."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(re.sub(r"[123]D", "#D", name), []).append(name)
    shown = []
    for form, members in families.items():
        digits = "/".join(re.search(r"([123])D", m).group(1) for m in members) if "#D" in form else ""  # type: ignore[union-attr]
        shown.append(form.replace("#D", f"{digits}D"))
    return shown


def operation_classes() -> dict[str, str]:
    """Class name of an operation of keras.ops -> the name of its function, where there is one."""
    functions = {name.replace("_", "").lower(): name for name in layer_operations()}
    return {kind: functions.get(kind.lower(), kind) for kind in {*operations.RULES, *operations.FROZEN}}


def operation_table() -> str:
    """One row for each rule, in the words of the rule, and one for each reason."""
    names, rows = operation_classes(), collections.defaultdict(set)
    for kind, rule in operations.RULES.items():
        rows[_first_line(rule)].add(names[kind])
    assert "" not in rows, f"rules without a docstring: {sorted(rows[''])}"
    reasons = collections.defaultdict(set)
    for kind, reason in operations.FROZEN.items():
        reasons[f"frozen: {reason}"].add(names[kind])
    lines = ["| keras.ops | what happens |", "|---|---|"]
    for text, members in (*rows.items(), *reasons.items()):
        lines.append(f"| {', '.join(sorted(members))} | {text} |")
    return "\n".join(lines)


def _first_line(rule: Any) -> str:
    return (inspect.getdoc(rule) or "").partition("\n")[0].removesuffix(".").replace("|", "\\|")


def document(text: str, layers: str, ops: str) -> str:
    """The README with both tables put between their markers."""
    caption = (
        f"Made by `python -m tests.catalogue --write` with Keras {keras.__version__}. "
        "(LocallyConnected1D/2D left Keras with version 3.)"
    )
    text = between_markers(text, "catalogue", f"{caption}\n\n{layers}")
    return between_markers(text, "operations", ops)


def between_markers(text: str, name: str, content: str) -> str:
    """Replaces what stands between `<!-- name:begin -->` and `<!-- name:end -->`."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    assert pattern.search(text), f"README.md has no markers for {name}"
    return pattern.sub(lambda m: f"{m.group(1)}{content}\n{m.group(2)}", text)


def main() -> None:
    """Prints or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write them into README.md")
    layers, ops = layer_table(catalogue()), operation_table()
    if parser.parse_args().write:
        README.write_text(document(README.read_text(), layers, ops))
    else:
        print(f"{layers}\n\n{ops}")


if __name__ == "__main__":
    main()
