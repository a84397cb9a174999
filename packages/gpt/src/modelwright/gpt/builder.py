"""`GPTModelBuilder`: a decoder of attention and MLP layers in turn, `*-` repeated."""

from dataclasses import replace
from functools import partial
from typing import final, override

from modelwright.config import Parallelism
from modelwright.distributed import staged_pattern
from modelwright.gpt.config import GPTModelConfig
from modelwright.layers import (
    TORCH,
    Backend,
    LanguageModelShape,
    ScaledRotaryEmbedding,
    StackModelBuilder,
    StackSpec,
    as_engine,
    stack_spec,
)
from modelwright.protocols import RotaryEmbeddingBuilder


def gpt_stack(config: GPTModelConfig, backend: Backend = TORCH) -> StackSpec:
    """What fills the slots of a GPT: the spec to change with `dataclasses.replace`.

    Args:
        config: Decides on the norms of queries and keys and on the rotary scaling.
        backend: Whose parts fill the generic slots.

    Returns:
        The spec.
    """
    return replace(stack_spec(backend, qk_norm=config.qk_norm), rotary_embedding=_rotary(config))


def _rotary(config: GPTModelConfig) -> RotaryEmbeddingBuilder | None:
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


class GPTModelBuilder(StackModelBuilder[GPTModelConfig]):
    """Builds the model of a `GPTModelConfig`; override `build_model` or `build_distributed_models` to change how."""

    @override
    def default_spec(self) -> StackSpec:
        return gpt_stack(self.config, self.backend)

    @final
    @override
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        config = self.config
        return LanguageModelShape(
            pattern=staged_pattern(config.stack_pattern, parallelism, unit=2),
            vocab_size=config.padded_vocab_size,
            seq_length=config.seq_length,
            tie_embeddings=config.tie_embeddings,
            position_embedding="learned_absolute"
            if config.position_embedding == "learned"
            else config.position_embedding,
            rotary_base=config.rotary_base,
            rotary_percent=config.rotary_percent,
        )
