"""Dropout that is a function of the seed, the step and the element, and not of the layout.

Random numbers that a rank draws in turn depend on what the rank holds: ranks that share a seed repeat one mask over
different heads, and another layout is another training. Here the mask of an element is a hash of

- the seed and the step (`DropoutDraw`, set by the training loop for each micro-batch),
- the name of the place in the whole model, with the global layer number,
- the global indices of the element: sequence of the global batch, position, and head or channel.

So ranks that hold copies agree, ranks that hold different parts do not repeat each other, a resumed run repeats what
the unbroken one draws, and a seed gives one loss curve on every layout.

The draw is kept among the random states of the engine's tracker. The engine restores those when it recomputes
activations, so a recomputed layer has the mask of its forward pass. Without a draw, as in a custom training loop, each
forward pass draws a key from the default generator of the device. The masks then still follow the global indices
within the batch of a rank.

Seam: `CudaRNGStatesTracker.get_states` and `set_states`. `packages/layers/tests/test_dropout.py` fails when a
recomputation no longer restores them.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast, final

import torch
from megatron.core.fusions import fused_bias_dropout
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.tensor_parallel import get_cuda_rng_tracker
from torch import Tensor, nn

from modelwright.distributed import context_positions

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection

_STATE: Final = "modelwright-dropout"
_BITS_32: Final = 0xFFFFFFFF
# The engine's function has no annotations.
_ENGINE_FUNCTION: Final = cast("Callable[[bool, bool], Callable[..., Tensor]]", fused_bias_dropout.get_bias_dropout_add)


def set_dropout_draw(*, seed: int, step: int, sequences_B: Tensor) -> None:
    """Set what the dropout masks of the next forward passes depend on, until `clear_dropout_draw`.

    Args:
        seed: Seed of the run.
        step: Number of the step.
        sequences_B: Number of each sequence of the micro-batch within the global batch, [b], int64.
    """
    key = _hashed(f"{seed}/dropout/{step}", bits=62)
    device = torch.cuda.current_device()
    draw = torch.cat([torch.tensor([key]), sequences_B]).to(device)
    _set_states(_states() | {_STATE: draw})


def clear_dropout_draw() -> None:
    """Let the dropout masks of the next forward passes depend on the default generator of the device."""
    states = _states()
    if states.pop(_STATE, None) is not None:
        _set_states(states)


def _states() -> dict[str, Tensor]:
    """Return a copy of the random states of the engine's tracker, by name."""
    tracker: Any = get_cuda_rng_tracker()
    states: dict[str, Tensor] = tracker.get_states()
    return states


def _set_states(states: dict[str, Tensor]) -> None:
    tracker: Any = get_cuda_rng_tracker()
    tracker.set_states(states)


def keep_mask(place: str, probability: float, batch: int, *indices: Tensor) -> Tensor:
    """Return which elements dropout keeps.

    Args:
        place: Name of the place in the whole model.
        probability: Probability that an element is dropped.
        batch: Number of sequences, b.
        *indices: The global indices of the elements, as for `element_hashes`.

    Returns:
        True where an element is kept, in the shape to which the indices broadcast.

    Raises:
        ValueError: The draw that is set is for another number of sequences.
    """
    return element_hashes(place, batch, *indices) >= round(probability * 2**32)


def element_hashes(place: str, batch: int, *indices: Tensor) -> Tensor:
    """Return a random number for each element.

    Args:
        place: Name of the place in the whole model.
        batch: Number of sequences, b.
        *indices: The global indices of the elements, int64 below 2**32, in shapes that broadcast to that of the
            result. The first stands for the sequences and contains their numbers in this batch, 0 to b - 1.

    Returns:
        Integers from 0 to 2**32 - 1, int64, in the shape to which the indices broadcast.

    Raises:
        ValueError: The draw that is set is for another number of sequences.
    """
    key, sequences_B = _draw(batch, indices[0].device)
    hashed = _mix((key & _BITS_32) ^ _hashed(place, bits=32))
    hashed = _mix(hashed ^ _mix(key >> 32))
    sequences, *others = indices
    for index in (sequences_B[sequences], *others):
        hashed = _mix(hashed ^ _mix(index + _SALT))
    return hashed


def dropped(values: Tensor, keep: Tensor, probability: float) -> Tensor:
    """Return the values that are kept, divided by the probability to be kept, and zero elsewhere.

    Args:
        values: Any shape.
        keep: True where a value is kept; a shape that broadcasts to that of the values.
        probability: Probability that a value is dropped.
    """
    scale = 1.0 / (1.0 - probability) if probability < 1 else 0.0
    return values * (keep * scale).to(values.dtype)


def _draw(batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the key, a scalar, and the number of each sequence, [b]."""
    draw = _states().get(_STATE)
    if draw is None:
        return torch.randint(2**62, (), device=device), torch.arange(batch, device=device)
    if draw.numel() != batch + 1:
        raise ValueError(
            f"`set_dropout_draw` must name the {batch} sequences of the forward pass, but names {draw.numel() - 1}; "
            "call it before each forward pass in training mode, or `clear_dropout_draw` after the last."
        )
    return draw[0], draw[1:]


def _hashed(text: str, *, bits: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - bits)


# Keeps index 0 from being mixed to 0.
_SALT: Final = 0x9E3779B9


def _mix(value: Tensor) -> Tensor:
    """Return a permutation of the numbers below 2**32 in which every bit depends on every bit.

    The function `lowbias32` of Chris Wellons' hash-prospector (public domain), in int64, which wraps as uint64 does.
    """
    value = value & _BITS_32
    value = ((value ^ (value >> 16)) * 0x7FEB352D) & _BITS_32
    value = ((value ^ (value >> 15)) * 0x846CA68B) & _BITS_32
    return value ^ (value >> 16)


@final
class HiddenPlace:
    """A place of a model with hidden states, [s, b, h], which are cut by context and sequence parallelism.

    Args:
        name: Name of the place in the whole model.
        groups: Process groups of this rank.
        sequence_parallel: True if the tensor ranks hold different positions.
    """

    def __init__(self, name: str, groups: "ProcessGroupCollection", *, sequence_parallel: bool) -> None:
        self.name = name
        self.context = (groups.cp.rank(), groups.cp.size())
        self.tensor = (groups.tp.rank(), groups.tp.size()) if sequence_parallel else (0, 1)

    def hashes(self, shape: torch.Size, device: torch.device) -> Tensor:
        """Return a random number for each element of the hidden states.

        Args:
            shape: Shape of the hidden states of this rank: [s, b, h].
            device: Device of the result.

        Returns:
            Integers from 0 to 2**32 - 1, int64, in that shape.
        """
        sequence, batch, channels = shape
        return element_hashes(
            self.name,
            batch,
            torch.arange(batch, device=device)[None, :, None],
            self._positions(sequence).to(device)[:, None, None],
            torch.arange(channels, device=device),
        )

    def _positions(self, local: int) -> Tensor:
        """Return the positions in the whole sequence of those that this rank holds."""
        (context_rank, context_size), (tensor_rank, tensor_size) = self.context, self.tensor
        whole = local * tensor_size * context_size
        return context_positions(whole, rank=context_rank, size=context_size).chunk(tensor_size)[tensor_rank]


@final
class HiddenDropout(nn.Module):
    """Dropout of hidden states.

    Args:
        place: The place in the model.
        probability: Probability that an element is dropped.
    """

    def __init__(self, place: HiddenPlace, probability: float) -> None:
        super().__init__()
        self.place = place
        self.p = probability

    def forward(self, hidden_SBH: Tensor) -> Tensor:
        """Apply dropout in training mode.

        Args:
            hidden_SBH: Hidden states of the positions of this rank.

        Returns:
            The same shape.
        """
        return self.drop(hidden_SBH, self.p) if self.training else hidden_SBH

    def drop(self, hidden_SBH: Tensor, probability: float) -> Tensor:
        """Drop elements with a probability, in any mode.

        Args:
            hidden_SBH: Hidden states of the positions of this rank.
            probability: Probability that an element is dropped.

        Returns:
            The same shape.
        """
        if probability == 0:
            return hidden_SBH
        hashes = self.place.hashes(hidden_SBH.shape, hidden_SBH.device)
        return dropped(hidden_SBH, hashes >= round(probability * 2**32), probability)


@final
class PlacedDropoutAdd:
    """The engine's bias, dropout and residual add, with the masks of one place of a model.

    Args:
        dropout: Dropout of the place.
    """

    def __init__(self, dropout: HiddenDropout) -> None:
        self.dropout = dropout

    def __call__(self, training: bool, fused: bool) -> Callable[..., Tensor]:  # noqa: FBT001 - the engine's call
        """Return the function for one call, as `get_bias_dropout_add` does.

        Args:
            training: Apply dropout.
            fused: Use the engine's fused function where there is no dropout.
        """
        if training:
            return self._add
        return _ENGINE_FUNCTION(training, fused)

    def _add(self, x_with_bias: tuple[Tensor, Tensor | None], residual: Tensor, prob: float) -> Tensor:
        """Add bias, apply dropout and add the residual, in the dtype of the residual as the engine does."""
        x, bias = (part.to(residual.dtype) if part is not None else None for part in x_with_bias)
        if x is None:
            raise TypeError("`x_with_bias` must begin with the output of a layer, but begins with None.")
        return residual + self.dropout.drop(x if bias is None else x + bias, prob)


def place_dropouts(stage: Any, groups: "ProcessGroupCollection") -> None:
    """Give the dropouts of hidden states in a stage their places, so that their masks do not depend on the layout.

    Replaces the engine's `bias_dropout_add` in each layer, and the dropout of the engine's embedding. Functions and
    embeddings of other kinds are left as they are.

    Args:
        stage: The engine's `HybridModel`.
        groups: Process groups of this rank.
    """
    config = stage.config
    place = partial(HiddenPlace, groups=groups, sequence_parallel=bool(config.sequence_parallel))
    if stage.pre_process and isinstance(stage.embedding, LanguageModelEmbedding):
        dropout = HiddenDropout(place("embedding"), config.hidden_dropout)
        setattr(stage.embedding, "embedding_dropout", dropout)  # noqa: B010 - declared as torch's Dropout
    layers: list[nn.Module] = list(stage.decoder.layers)
    for layer in layers:
        number = cast("int", layer.layer_number)
        attributes: dict[str, Any] = dict(vars(layer))
        for name in (name for name, value in attributes.items() if value is _ENGINE_FUNCTION):
            dropout = HiddenDropout(place(f"decoder.layers.{number - 1}.{name}"), config.hidden_dropout)
            setattr(layer, name, PlacedDropoutAdd(dropout))
