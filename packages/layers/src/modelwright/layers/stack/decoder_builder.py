"""`DecoderModelBuilder`: from the config that all families of decoders share to the engine's stack.

What stands around the stack and which parts fill the slots follow from `DecoderConfig` alone; a family's builder says
no more than what its own layers need.
"""

from dataclasses import replace
from functools import partial
from typing import final, override

from modelwright.config import DecoderConfig, Parallelism
from modelwright.distributed import staged_pattern
from modelwright.engine import as_engine
from modelwright.layers.rotary import ScaledRotaryEmbedding
from modelwright.layers.stack.assembly import LanguageModelShape
from modelwright.layers.stack.backends import TORCH, Backend, stack_spec
from modelwright.layers.stack.spec import StackSpec
from modelwright.layers.stack.stack_builder import StackModelBuilder
from modelwright.protocols import RotaryEmbeddingBuilder


def decoder_stack(config: DecoderConfig, backend: Backend = TORCH) -> StackSpec:
    """What fills the slots of a decoder: the spec to change with `dataclasses.replace`.

    Args:
        config: Decides on the norms of queries and keys and on the rotary scaling.
        backend: Whose parts fill the generic slots.

    Returns:
        The spec.
    """
    return replace(stack_spec(backend, qk_norm=config.qk_norm), rotary_embedding=_rotary(config))


def _rotary(config: DecoderConfig) -> RotaryEmbeddingBuilder | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    build: RotaryEmbeddingBuilder = partial(
        as_engine(ScaledRotaryEmbedding),
        factor=scaling.factor,
        low_freq_factor=scaling.low_freq_factor,
        high_freq_factor=scaling.high_freq_factor,
        original_seq_length=scaling.original_seq_length,
    )
    return build


class DecoderModelBuilder[ConfigT: DecoderConfig](StackModelBuilder[ConfigT]):
    """Builds the model of a family's config; override `build_model` or `build_distributed_models` to change how."""

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
