"""What nearly every part reads of the engine's config, so that a part can be typed and tested without the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, dtype


class EngineConfig(Protocol):
    """The engine's `TransformerConfig`, as far as parts usually read it; that class satisfies this.

    A part that annotates `config: EngineConfig` fits every slot. Needs more? Extend it: a Protocol of your own with
    this one as its base.
    """

    @property
    def num_layers(self) -> int:
        """Layers of the whole model."""
        ...

    @property
    def hidden_size(self) -> int:
        """Size `h` of the residual stream."""
        ...

    @property
    def num_attention_heads(self) -> int:
        """Query heads over all tensor-parallel ranks."""
        ...

    @property
    def num_query_groups(self) -> int | None:
        """Key and value heads over all tensor-parallel ranks; the engine sets it when it is not given."""
        ...

    @property
    def kv_channels(self) -> int | None:
        """Head size `d`; the engine sets it when it is not given."""
        ...

    @property
    def ffn_hidden_size(self) -> int | None:
        """Inner size of a dense MLP, not doubled for a gated one; the engine sets it when it is not given."""
        ...

    @property
    def layernorm_epsilon(self) -> float:
        """Added to the variance by a norm."""
        ...

    @property
    def add_bias_linear(self) -> bool:
        """Whether linear layers have a bias."""
        ...

    @property
    def attention_dropout(self) -> float:
        """Probability of dropping an attention weight."""
        ...

    @property
    def sequence_parallel(self) -> bool:
        """Whether norms and dropouts see this tensor-parallel rank's part of the sequence only."""
        ...

    @property
    def params_dtype(self) -> dtype:
        """Type of the parameters."""
        ...

    @property
    def init_method(self) -> Callable[[Tensor], object] | None:
        """Initializes a weight in place."""
        ...

    @property
    def output_layer_init_method(self) -> Callable[[Tensor], object] | None:
        """Initializes, in place, a weight whose output joins the residual stream."""
        ...
