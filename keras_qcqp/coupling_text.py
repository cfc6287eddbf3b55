"""A coupling in words: each coupled mask with the layers it ties, then what is frozen and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_qcqp.mask_roles import Coupled, Roles, roles_of
from keras_qcqp.partition import FrozenLayer

_WIDTH = 120
_SHOWN = 3


def render(coupling: Coupled) -> str:
    """One or two lines a mask, whatever the size of the network."""
    lines = [f"{coupling.graph.name}: {len(coupling.masks)} coupled masks, {len(coupling.mask_of)} channels"]
    if coupling.joins:
        lines[0] += f", sums with channels of their own: {len(coupling.joins)} ({coupling.residual} residuals)"
    for roles in roles_of(coupling):
        lines += _mask_lines(roles)
    lines += _frozen_lines([f for f in coupling.frozen if not f.tied])
    tied = [f for f in coupling.frozen if f.tied]
    if tied:
        lines.append(f"  always kept whole: {listed([_sized(f) for f in tied])}: {tied[0].reason}")
    return "\n".join(lines)


def listed(names: Sequence[str], shown: int = _SHOWN) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - shown
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:shown])}, +{more} more"


def parts(roles: Roles) -> str:
    """Which layers have to do with a mask; a single maker that the mask is named after goes without saying."""
    told = [
        ("made by", () if roles.makers == (roles.mask.name,) else roles.makers, _SHOWN),
        ("read by", roles.readers, _SHOWN),
        ("carried by", roles.carriers, _SHOWN - 1),
    ]
    return "; ".join(f"{verb} {listed(layers, shown)}" for verb, layers, shown in told if layers)


def size(roles: Roles) -> str:
    """How many channels, how often each appears, and whether all or none are kept."""
    mask = roles.mask
    times = f" x {mask.multiplicity}" if mask.multiplicity > 1 else ""
    kind = " frozen" if mask.frozen else " dead" if mask.dead else ""
    why = roles.why.removeprefix("frozen ").removeprefix("frozen")
    return f"{mask.size}{times}{kind}" + (f" ({why})" if why else "")


def _mask_lines(roles: Roles) -> list[str]:
    head, rest = f"  {roles.mask.name}: {size(roles)}", parts(roles)
    if len(head) + len(rest) + 2 <= _WIDTH:
        return [f"{head}; {rest}" if rest else head]
    return [head, f"      {rest}"]


def _frozen_lines(frozen: Sequence[FrozenLayer]) -> Iterator[str]:
    """One line for each class and reason, however many calls give it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for f in frozen:
        groups.setdefault((f.kind, f.reason), []).append(f.node)
    for (kind, reason), nodes in groups.items():
        yield f"  frozen at {listed(nodes)} ({kind}): {reason}"


def _sized(f: FrozenLayer) -> str:
    return f"{f.node} ({f.kind}, {f.num_channels})"
