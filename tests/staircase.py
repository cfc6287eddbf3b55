"""A device that exists nowhere: costs in steps of channels, computed from the file, the same every time."""

from __future__ import annotations

from collections.abc import Mapping

from tflite_tools.latency.axes import axes_of
from tflite_tools.latency.flat_graph import read_graph


class Steps:
    """A device that works on 4 inputs and 8 outputs at once, and needs a microsecond for each call of a model."""

    name, num_threads, deterministic = "steps", 1, True

    def __init__(self, patience: int = 10**9) -> None:
        """Args: patience: how many batches until Ctrl-C."""
        self.patience, self.asked = patience, list[str]()

    def costs(self, models: Mapping[str, bytes], seconds: float) -> dict[str, float]:
        if self.patience <= 0:
            raise KeyboardInterrupt
        self.patience -= 1
        self.asked += models
        return {name: 0.001 + sum(map(self.cost, *self.widths(data))) for name, data in models.items()}

    def widths(self, data: bytes) -> tuple[list[int], list[int]]:
        graph = read_graph(data)
        axes = [axes_of(graph, op) for op in graph.ops]
        return [a.given or 0 for a in axes], [a.made or 0 for a in axes]

    def cost(self, given: int, made: int) -> float:
        return 0.002 + 0.0005 * (-(-made // 8)) * (1 + -(-given // 4))

    def environment(self) -> dict[str, str]:
        return {"cpu": "none"}
