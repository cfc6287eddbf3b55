"""The door: a model, and perhaps a plan for it, as a drawing."""

from __future__ import annotations

import dataclasses
import os

import keras

from keras_qcqp.coupling import couple
from keras_qcqp.drawing.content import content_of
from keras_qcqp.drawing.svg import write
from keras_qcqp.errors import PlanError
from keras_qcqp.files import check_writable, write_text
from keras_qcqp.graph import read
from keras_qcqp.plan import Plan
from keras_qcqp.plan_check import require_match


@dataclasses.dataclass(frozen=True)
class Drawing:
    """An SVG that needs nothing else; notebooks show it by themselves.

    Attributes:
        width, height: in pixels.
    """

    title: str
    width: int
    height: int
    svg: str = dataclasses.field(repr=False)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the SVG atomically.

        Raises:
            FileError: the file cannot be written.
        """
        write_text(path, self.svg)

    def _repr_svg_(self) -> str:
        return self.svg


def plot(
    model: keras.Model,
    plan: Plan | None = None,
    to_file: str | os.PathLike[str] | None = None,
    residual: str | None = None,
) -> Drawing:
    """Draws every call of a model as a box, and every coupled mask in a colour of its own.

    The colours in a box are the masks of its output, as wide as their shares; hatched ones are frozen. Texts that
    were shortened are told in full where the mouse rests on them.

    Args:
        plan: shows widths before and after it; its own kind of residuals is then used.
        to_file: where to write the SVG as well.
        residual: "tied" (the default without a plan) or "union", see `keras_qcqp.couple`.

    Raises:
        ModelError: the model cannot be read, or `residual` is unknown.
        PlanError: no plan, one for another model, or one with other residuals than asked for.
        FileError: `to_file` cannot be written.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise PlanError(f"plan must be a Plan, got {type(plan).__name__}. Plan.load(path) reads a file.")
    if plan is not None and residual not in (None, plan.residual):
        raise PlanError(f"The plan has residual={plan.residual!r}, not {residual!r}. Leave residual out.")
    if to_file is not None:
        check_writable(to_file)
    graph = read(model)
    if plan is None:
        coupling = couple(graph, residual=residual or "tied")
    else:
        coupling = couple(graph, residual=plan.residual, group_conv=plan.group_conv)
    alive = require_match(plan, coupling) if plan is not None else None
    svg, width, height = write(content_of(coupling, alive))
    drawing = Drawing(coupling.graph.name, width, height, svg)
    if to_file is not None:
        drawing.save(to_file)
    return drawing
