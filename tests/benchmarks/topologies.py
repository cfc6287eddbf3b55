"""Prunes networks that nobody here drew, all of keras.applications and two other model zoos, and holds each to the law.

    python -m tests.benchmarks.topologies --output=rows.json                                # an hour and a half or so
    python -m tests.benchmarks.topologies --models='MobileNet*,ResNet50' --output=rows.json
    python -m tests.benchmarks.topologies --zoo=kecam --output=kecam.json                   # extra `zoo`
    python -m tests.benchmarks.topologies --output=rows.json --models=                      # only the table

Weights are random, images as small as the constructor allows. Each model has a process of its own, and its row is
written as soon as it is known; rows that are in the file already are not measured again unless `--again`, or their
process did not end well.

Columns: layers: those with MACs; prunable: share of the MACs in kernels with an axis that may shrink; lowest: MACs with
every mask at a single channel; kept: what the solver was asked for, half of the MACs or, where the usual widths (a
quarter) do not reach it, the least that they do; seconds; law: max |rebuilt - masked original| / max |masked original|;
trip: the saved and loaded model predicts bit by bit the same; kB of the float32 .tflite; failures, in brackets those of
the unpruned model too. MACs of layers that no rule knows are not counted; their classes are listed below
the table, which is Markdown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import app, flags
from rich.console import Console

from tests.benchmarks.topology_table import Row, gaps, names, row_of, table

_ZOO = flags.DEFINE_enum("zoo", "keras", ["keras", "keras_hub", "kecam"], "Where the models come from.")
_MODELS = flags.DEFINE_list("models", ["*"], "Patterns over their names.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file for the rows, read first if it exists.")
_AGAIN = flags.DEFINE_bool("again", False, "Also measure what the file has already.")
_JOBS = flags.DEFINE_integer("jobs", 1, "Models at a time.", 1)
_FRACTION = flags.DEFINE_float("fraction", 0.5, "MACs to keep.", 0.0, 1.0)
_TIME_LIMIT = flags.DEFINE_float("time_limit_s", 10.0, "As for keras_qcqp.solve.", 0.0)
_TIMEOUT = flags.DEFINE_float("timeout_s", 900.0, "Longest time for one model.", 0.0)


def measure(known: dict[str, Row]) -> Iterator[dict[str, Row]]:
    """All rows, again after each new one."""
    wanted = names(_ZOO.value, _MODELS.value)
    todo = [n for n in wanted if _AGAIN.value or n not in known or "process" in known[n]["failures"]]
    one = lambda name: row_of(_ZOO.value, name, _FRACTION.value, _TIME_LIMIT.value, _TIMEOUT.value)  # noqa: E731
    with ThreadPoolExecutor(_JOBS.value) as pool:
        for number, row in enumerate(pool.map(one, todo), 1):
            known = known | {row["model"]: row}
            said = "; ".join(f"{k}: {why}" for k, why in (row["theirs"] | row["failures"]).items()) or "passed"
            print(f"{number}/{len(todo)} {row['model']} {row['total_s']:.0f} s {said}", flush=True)
            yield known


def main(argv: list[str]) -> None:
    del argv
    path = Path(_OUTPUT.value) if _OUTPUT.value else None
    known: dict[str, Row] = {}
    if path and path.is_file():
        known = {row["model"]: row for row in json.loads(path.read_text())}
    for rows_now in measure(known) if _MODELS.value else ():
        known = rows_now
        if path:
            path.write_text(json.dumps([known[name] for name in sorted(known)], indent=1))
    rows = [known[name] for name in sorted(known)]
    Console(width=250).print(table(rows))
    print(*gaps(rows), sep="\n")


if __name__ == "__main__":
    app.run(main)
