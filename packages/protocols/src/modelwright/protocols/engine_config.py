"""Protocol of the fields of Megatron-Core's config that most parts read.

A part that uses it can be typed and tested without the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, dtype


class EngineConfig(Protocol):
    """The most used fields of the engine's `TransformerConfig`, which satisfies this Protocol.

    A part that annotates `config: EngineConfig` fits every slot. For more fields, derive a Protocol from this one.
    """

    @property
    def num_layers(self) -> int:
        """Number of layers of the whole model."""
        ...

    @property
    def hidden_size(self) -> int:
        """Size `h` of the hidden states."""
        ...

    @property
    def num_attention_heads(self) -> int:
        """Number `n` of query heads over all tensor-parallel ranks."""
        ...

    @property
    def num_query_groups(self) -> int | None:
        """Number of key and value heads over all tensor-parallel ranks. The engine replaces `None` by a number."""
        ...

    @property
    def kv_channels(self) -> int | None:
        """Head size `d`. The engine replaces `None` by a number."""
        ...

    @property
    def ffn_hidden_size(self) -> int | None:
        """Inner size of a dense MLP, not doubled for a gated one. The engine replaces `None` by a number."""
        ...

    @property
    def layernorm_epsilon(self) -> float:
        """Constant that a norm adds to the variance."""
        ...

    @property
    def add_bias_linear(self) -> bool:
        """True if linear layers have a bias."""
        ...

    @property
    def attention_dropout(self) -> float:
        """Dropout probability of attention weights."""
        ...

    @property
    def sequence_parallel(self) -> bool:
        """True if norms and dropouts process only this tensor-parallel rank's shard of the sequence."""
        ...

    @property
    def params_dtype(self) -> dtype:
        """Dtype of the parameters."""
        ...

    @property
    def init_method(self) -> Callable[[Tensor], object] | None:
        """Function that initializes a weight in place."""
        ...

    @property
    def output_layer_init_method(self) -> Callable[[Tensor], object] | None:
        """Function that initializes, in place, the weight of a projection into the residual stream."""
        ...
