"""Records: what a rank measured while it trained a few steps on one layout.

Everything is plain data and NumPy arrays, so that the ranks can send it to the process that compares. A `Piece` is a
part of an unsharded tensor, an `OutputPart` a part of the output of a module.
"""

from dataclasses import dataclass, field
from typing import final

import numpy as np

type Array = np.ndarray[tuple[int, ...], np.dtype[np.floating]]
type Indices = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@final
@dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of an unsharded tensor that one rank has."""

    key: str
    """Name of the tensor in the engine's sharded state dict."""
    name: str
    """Name of the parameter, with the number of its layer in the whole model."""
    global_shape: tuple[int, ...]
    """Shape of the unsharded tensor."""
    start: tuple[int, ...]
    """Index of the first element in each dim of the unsharded tensor."""
    values: Array
    """The elements."""

    @property
    def where(self) -> tuple[slice, ...]:
        """Return the place of the piece in the unsharded tensor."""
        return tuple(slice(low, low + size) for low, size in zip(self.start, self.values.shape, strict=True))


@final
@dataclass(frozen=True, kw_only=True)
class OutputPart:
    """The output of a module for one micro-batch on one rank."""

    name: str
    """Name of the module, with the number of its layer in the whole model."""
    sequences: tuple[int, ...]
    """Number of each sequence in the global batch."""
    positions: Indices
    """Position of each row in the sequence, [s]."""
    channels: Indices | None
    """Index of each channel in the unsharded output, [c]. None: all channels, or a contiguous part of them."""
    values: Array
    """The output, [s, b, c]."""


@final
@dataclass(frozen=True, kw_only=True)
class StepRecording:
    """The measurements of one step on one rank."""

    loss: float
    """Mean loss over the tokens of the global batch, in nats per token."""
    grad_norm: float
    """Gradient norm before clipping, as the optimizer computed it."""
    gradients: list[Piece]
    """Gradients before the optimizer."""
    parameters: list[Piece]
    """Parameters and buffers after the step."""
    outputs: list[OutputPart]
    """Outputs of modules in the forward pass."""
    router_losses: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """Auxiliary losses of the routers by name, one value for each layer."""
    tokens_per_expert: dict[int, tuple[int, ...]] = field(default_factory=dict[int, tuple[int, ...]])
    """Number of tokens of each expert, by the number of the layer from 1."""


@final
@dataclass(frozen=True, kw_only=True)
class RankRecording:
    """The measurements of one rank."""

    coordinates: dict[str, int]
    """Rank in the group of each axis."""
    sizes: dict[str, int]
    """Number of ranks in the group of each axis."""
    initial: list[Piece]
    """Parameters and buffers before the first step."""
    layout_bound: tuple[str, ...]
    """Parameters with initial values that depended on the layout, and were replaced by those of one rank."""
    order: tuple[str, ...]
    """Names of the modules of this rank, in the order of the forward pass."""
    steps: list[StepRecording]
    """The steps."""


@final
@dataclass(frozen=True)
class Refusal:
    """A layout on which the model cannot be built."""

    reason: str
    """The message of the error."""
    is_consequence: bool = False
    """True if the rank only reports that another one failed."""
