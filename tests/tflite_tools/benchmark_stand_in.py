"""Takes the flags of `benchmark_model` and prints what it prints; the times are LiteRT's on this computer."""

from __future__ import annotations

import sys
from pathlib import Path

from tflite_tools.devices.base import TimingOptions
from tflite_tools.devices.host import HostDevice

FLAGS = dict(argument[2:].partition("=")[::2] for argument in sys.argv[1:])
RUNS, GRAPH = int(FLAGS["num_runs"]), FLAGS["graph"]
HEAD = "node type, first, avg_ms, %, cdf%, mem KB, times called, name"


def main() -> None:
    print(f"INFO: STARTING!\nINFO: Graph: [{GRAPH}]")
    if not Path(GRAPH).exists() or Path(GRAPH).read_bytes()[4:8] != b"TFL3":
        sys.exit(f"ERROR: Failed to load model {GRAPH}\nERROR: Benchmarking failed.")
    if FLAGS.get("use_gpu") == "true":
        print(
            "ERROR: Following operations are not supported by GPU delegate:\nERROR: UNPACK: Operation is not supported."
        )
        print("INFO: 17 operations will run on the GPU, and the remaining 2 operations will run on the CPU.")
    options = TimingOptions(
        rounds=1, repeats=RUNS, warmup=1, num_threads=int(FLAGS["num_threads"]), per_op="enable_op_profiling" in FLAGS
    )
    timing = HostDevice().profile({"net": Path(GRAPH).read_bytes()}, options)["net"]
    first, least, most, middle = (
        int(ms * 1000) for ms in (timing.first_ms, timing.latency_ms, timing.p90_ms, timing.median_ms)
    )
    print(f"INFO: count=1 curr={first}\n")
    print(f"INFO: count={RUNS} first={first} curr={middle} min={least} max={most} avg={middle} std=1\n")
    print(
        f"INFO: Inference timings in us: Init: {timing.init_ms * 1000:g}, First inference: {first}, "
        f"Warmup (avg): {first}, Inference (avg): {middle}"
    )
    print("INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=2.25")
    if FLAGS.get("enable_op_profiling") == "true":
        rows = [f"{op.kind}, {op.ms}, {op.ms}, 1%, 1%, 0, 1, [{op.name}]:{n}" for n, op in enumerate(timing.ops)]
        table = "\n".join(
            [
                "Operator-wise Profiling Info for Regular Benchmark Runs:",
                f"{'=' * 30} Run Order {'=' * 30}",
                HEAD,
                *rows,
                "",
            ]
        )
        if FLAGS.get("op_profiling_output_file") and "no_csv" not in FLAGS:
            Path(FLAGS["op_profiling_output_file"]).write_text(table)
        else:
            print(table)


if __name__ == "__main__":
    main()
