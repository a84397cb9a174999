"""`DecoderModelBuilder`: how a decoder of any family is assembled from its config.

The arguments around the stack and the default parts follow from `DecoderConfig` alone. The builder of a family adds
only the parts that its own layers need.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast, final, override

from modelwright.config import DecoderConfig, Parallelism
from modelwright.distributed import staged_pattern
from modelwright.layers.rotary import ScaledRotaryEmbedding
from modelwright.layers.stack.assembly import LanguageModelShape
from modelwright.layers.stack.backends import TORCH, Backend, stack_spec
from modelwright.layers.stack.spec import StackSpec
from modelwright.layers.stack.stack_builder import StackModelBuilder
from modelwright.protocols import RotaryEmbeddingBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from modelwright.protocols import RotaryEmbeddingInterface


def decoder_stack(config: DecoderConfig, backend: Backend = TORCH) -> StackSpec:
    """Return the default spec of a decoder; change it with `dataclasses.replace`.

    Args:
        config: Decides about norms of queries and keys, and about rotary scaling.
        backend: Backend of the generic parts.

    Returns:
        The spec.
    """
    return replace(stack_spec(backend, qk_norm=config.qk_norm), rotary_embedding=_rotary(config))


def _rotary(config: DecoderConfig) -> RotaryEmbeddingBuilder | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    # The engine declares the stack and the inputs of `get_rotary_seq_len` more narrowly than it calls it.
    build = cast("Callable[..., RotaryEmbeddingInterface]", ScaledRotaryEmbedding)
    return partial(
        build,
        factor=scaling.factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_seq_length=scaling.original_seq_length,
    )


class DecoderModelBuilder[ConfigT: DecoderConfig](StackModelBuilder[ConfigT]):
    """Builds a decoder from the config of a family.

    Override `build_model` for another module, or `build_distributed_models` for another lifecycle.
    """

    @override
    def default_spec(self) -> StackSpec:
        return decoder_stack(self.config, self.backend)

    @final
    @override
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        config = self.config
        return LanguageModelShape(
            pattern=staged_pattern(config.stack_pattern, parallelism, unit=config.block_size),
            vocab_size=config.padded_vocab_size,
            seq_length=config.seq_length,
            tie_embeddings=config.tie_embeddings,
            position_embedding="learned_absolute"
            if config.position_embedding == "learned"
            else config.position_embedding,
            rotary_base=config.rotary_base,
            rotary_percent=config.rotary_percent,
        )
