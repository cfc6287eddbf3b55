"""What the user is told of channels that had to stay."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class FrozenLayer:
    """A call that keeps channels which would otherwise be free, how many, and why.

    `tied` marks layers that were followed, but whose channels are added to an input or output of the network.
    """

    node: str
    kind: str
    reason: str
    num_channels: int
    tied: bool = False
