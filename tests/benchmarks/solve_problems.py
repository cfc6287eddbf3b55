"""Measures the solver: the paper's instances against its peers, networks of ImageNet size, and how cost grows.

    python -m tests.benchmarks.solve_problems --results=solve.json                # everything; an hour or more
    python -m tests.benchmarks.solve_problems --parts=paper --networks=resnet20 --fractions=0.46
    python -m tests.benchmarks.solve_problems --parts=imagenet --networks=MobileNetV2 --peers=
    python -m tests.benchmarks.solve_problems --parts=growth --exponents=4,5,6

Every problem is saved once and solved in fresh processes without Keras. Peers get the time that our solver took, ten
seconds at least, and are judged by the oracle; their cells say by how much their objective differs from ours, and their
time as a multiple of ours. Memory is the most that the process, and in brackets its CP-SAT worker, ever held. The
networks of the paper's instances have the shared trained weights (KERAS_QCQP_DATA), random ones where those are absent.
Tables are Markdown.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from rich import box
from rich.console import Console
from rich.table import Table

from keras_qcqp import problem_io
from keras_qcqp.problem import evaluate, violations
from tests.benchmarks.peers import PEERS

PAPER = ("resnet20", "resnet56")
IMAGENET = (
    *("ResNet50", "MobileNetV2", "EfficientNetB0", "DenseNet121"),  # of keras.applications, random weights
    *("mobilenetv2_100_224_imagenet", "mobilenetv1_025_224_imagenet"),  # trained
)
PARTS = ("paper", "imagenet", "growth")

_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")
_NETWORKS = flags.DEFINE_list("networks", [*PAPER, *IMAGENET], "Networks of the parts paper and imagenet.")
_FRACTIONS = flags.DEFINE_list("fractions", ["0.3", "0.46", "0.6", "0.8"], "MACs to keep in the part paper.")
_RESIDUALS = flags.DEFINE_list("residuals", ["tied", "union"], "In the part imagenet.")
_EXPONENTS = flags.DEFINE_list(
    "exponents", ["4", "5", "6", "7", "8"], "Channel pairs in the part growth, powers of 10."
)
_PEERS = flags.DEFINE_list("peers", list(PEERS), "Peers of the part paper; add-greedy also runs in the part imagenet.")
_PEER_SECONDS = flags.DEFINE_float("peer_seconds", 10.0, "Least time for a peer.", 0.0)
_TIME_LIMIT = flags.DEFINE_float("time_limit_s", 60.0, "As for keras_qcqp.solve.", 0.0)
_RESULTS = flags.DEFINE_string("results", None, "JSON file for all that was measured.")

for _flag, _known in ((_PARTS, PARTS), (_NETWORKS, (*PAPER, *IMAGENET)), (_PEERS, tuple(PEERS))):
    flags.register_validator(
        _flag, lambda given, known=_known: set(given) <= set(known), f"known are {', '.join(_known)}"
    )

Row = dict[str, Any]


def module(name: str, *arguments: str, timeout_s: float) -> str | None:
    """Runs a module of this folder in a process of its own; None, or what went wrong."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"not ended after {timeout_s:.0f} s"
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def measured(instance: str, peers: Iterable[str]) -> Row:
    """Makes an instance, solves it, lets the peers solve it."""
    print(instance, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path, told = str(Path(folder, "problem.npz")), Path(folder, "told.json")
        row: Row = {"instance": instance, "peers": {}}
        failure = module("instances", instance, path, timeout_s=900)
        failure = failure or module("solve_one", path, str(_TIME_LIMIT.value), str(told), timeout_s=3600)
        if failure:
            return {**row, "failure": failure}
        row |= json.loads(told.read_text())
        print(f"  ours: {row['objective']:.6g} in {row['seconds']:.1f} s", file=sys.stderr, flush=True)
        for peer in peers:
            row["peers"][peer] = judged(path, peer, max(_PEER_SECONDS.value, row["seconds"]), told)
            print(f"  {peer}: {row['peers'][peer]}", file=sys.stderr, flush=True)
        return row


def judged(path: str, peer: str, seconds: float, told: Path) -> Row:
    """What a peer finds in the given time, by the oracle."""
    failure = module("peers", path, peer, str(seconds), str(told), timeout_s=4 * seconds + 120)
    if failure:
        return {"failure": failure}
    said = json.loads(told.read_text())
    row = {key: said[key] for key in ("bound", "seconds", "refused")}
    if said["keep"] is not None:
        problem, keep = problem_io.load(path), tuple(np.array(k, bool) for k in said["keep"])
        row |= {"objective": evaluate(problem, keep)[0], "violations": violations(problem, keep)}
    return row


def paper_rows() -> Iterator[Row]:
    """The paper's CIFAR instances."""
    wanted = [n for n in PAPER if n in _NETWORKS.value]
    return (measured(f"paper/{n}/{f}", _PEERS.value) for n in wanted for f in _FRACTIONS.value)


def imagenet_rows() -> Iterator[Row]:
    """Networks of ImageNet size at half of their MACs; of the peers only the greedy one can take their size."""
    wanted = [n for n in IMAGENET if n in _NETWORKS.value]
    peers = [p for p in _PEERS.value if p == "add-greedy"]
    return (measured(f"{n}/{r}/0.5", peers) for n in wanted for r in _RESIDUALS.value)


def growth_rows() -> Iterator[Row]:
    """Chains and residual networks of ever more channel pairs."""
    return (measured(f"{kind}/{10 ** float(e):.3g}", ()) for kind in ("chain", "resnet") for e in _EXPONENTS.value)


def exponent(rows: Sequence[Row], seconds: Callable[[Row], float]) -> float:
    """Slope of the line through log(seconds) over log(pairs)."""
    return float(np.polyfit(np.log([r["pairs"] for r in rows]), np.log([seconds(r) for r in rows]), 1)[0])


def bounded_after(row: Row) -> float:
    """Seconds until there was a selection and a bound for it."""
    return next((t for t, line in row["history"] if line.startswith("bound")), row["seconds"])


def own_cells(row: Row) -> list[str]:
    """Objective, bound, gap, seconds, warm start below the objective, its seconds."""
    warm = "-" if row["warm"] is None else f"{row['warm'] / row['objective'] - 1:+.3%}"
    cells = [f"{row['objective']:.2f}", f"{row['bound']:.2f}", f"{row['gap']:.2%}", f"{row['seconds']:.1f}"]
    return [*cells, warm, f"{row['warm_seconds']:.2f}"]


def peer_cell(row: Row, peer: str) -> str:
    """Difference of objectives and ratio of times, or why there are none."""
    said = row["peers"].get(peer, {"failure": "-"})
    if said.get("failure"):
        return "-" if said["failure"] == "-" else "failed"
    if said["refused"]:
        return "refused"
    if "objective" not in said:
        return f"nothing ({said['seconds'] / row['seconds']:.1f}x)"
    if said["violations"]:
        return "infeasible"
    return f"{said['objective'] / row['objective'] - 1:+.2%} ({said['seconds'] / row['seconds']:.1f}x)"


def memory_cell(row: Row) -> str:
    return f"{row['peak_mib']:,.0f} ({row['worker_mib']:,.0f})"


OWN = ["objective", "bound", "gap", "s", "warm start", "warm s"]


def show_paper(rows: Sequence[Row]) -> None:
    """One row for each instance, a column for each peer."""
    peers = _PEERS.value
    cells = [[r["instance"], *own_cells(r), *(peer_cell(r, p) for p in peers)] for r in rows]
    show(["instance", *OWN, *peers], cells)


def show_imagenet(rows: Sequence[Row]) -> None:
    """With size and memory."""
    peers = [p for p in _PEERS.value if p == "add-greedy"]
    cells = []
    for r in rows:
        size = [f"{r[k]:,}" for k in ("masks", "channels", "pairs")]
        cells.append([r["instance"], *size, *own_cells(r), memory_cell(r), *(peer_cell(r, p) for p in peers)])
    show(["instance", "masks", "channels", "pairs", *OWN, "MiB (worker)", *peers], cells)


def show_growth(rows: Sequence[Row]) -> None:
    """And the exponents."""
    heads = ["instance", "pairs", "gap", "s", "warm s", "bound after s", "MiB (worker)"]
    cells = []
    for r in rows:
        times = (r["seconds"], r["warm_seconds"], bounded_after(r))
        cells.append(
            [r["instance"], f"{r['pairs']:,}", f"{r['gap']:.2%}", *(f"{t:.2f}" for t in times), memory_cell(r)]
        )
    show(heads, cells)
    for kind in ("chain", "resnet"):
        mine = [r for r in rows if r["instance"].startswith(kind)]
        if len(mine) > 1:
            whole, warm = exponent(mine, lambda r: r["seconds"]), exponent(mine, lambda r: r["warm_seconds"])
            bound = exponent(mine, bounded_after)
            print(f"{kind}: seconds grow as pairs^{whole:.2f}, warm start ^{warm:.2f}, until the bound ^{bound:.2f}")


def show(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table."""
    table = Table(box=box.MARKDOWN)
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in cells:
        table.add_row(*row)
    Console(width=300).print(table)


MEASURES: Mapping[str, tuple[Callable[[], Iterator[Row]], Callable[[Sequence[Row]], None]]] = {
    "paper": (paper_rows, show_paper),
    "imagenet": (imagenet_rows, show_imagenet),
    "growth": (growth_rows, show_growth),
}


def main(argv: list[str]) -> None:
    """Measures the parts; the JSON grows with each row, so that a long run can be cut off."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument '{argv[1]}'; give options as --name=value")
    results: dict[str, list[Row]] = {}
    for part in _PARTS.value:
        make, present = MEASURES[part]
        results[part] = []
        for row in make():
            results[part].append(row)
            if _RESULTS.value:
                Path(_RESULTS.value).write_text(json.dumps(results, indent=1))
        present([r for r in results[part] if "failure" not in r])
        for r in results[part]:
            if "failure" in r:
                print(f"{r['instance']}: {r['failure']}")


if __name__ == "__main__":
    app.run(main)
