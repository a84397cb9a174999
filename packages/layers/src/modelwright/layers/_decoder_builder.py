"""`DecoderModelBuilder`: from the config that all families of decoders share to the engine's stack.

What stands around the stack and which parts fill the slots follow from `DecoderConfig` alone; a family's builder says
no more than what its own layers need.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import final, override

from modelwright.builders import Hook
from modelwright.config import DecoderConfig, ExpertsConfig, Parallelism
from modelwright.distributed import staged_pattern
from modelwright.layers._backends import TORCH, Backend, missing_for_te, stack_spec
from modelwright.layers._model import LanguageModelShape
from modelwright.layers._rotary import ScaledRotaryEmbedding
from modelwright.layers._slots import as_engine
from modelwright.layers._specs import StackSpec
from modelwright.layers._stack_builder import StackModelBuilder
from modelwright.protocols import ModelwrightError, RotaryEmbeddingBuilder


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
    """Builds the model of a family's config; override `build_model` or `build_distributed_models` to change how.

    Args:
        config: What to build.
        spec: What fills every slot, or the name that it was registered under; the family's own when None.
        backend: Which parts the family's own spec is made of: `torch`, `te` or `auto`.
        hooks: Run around the wrap, in order.
        meta: Build on the meta device first, then materialise; the model is the same.

    Raises:
        ModelwrightError: There is no such backend or spec, or the backend, or a part that the config asks for, cannot
            be used here.
    """

    def __init__(
        self,
        config: ConfigT,
        *,
        spec: StackSpec | str | None = None,
        backend: str = "torch",
        hooks: Iterable[Hook] = (),
        meta: bool = False,
    ) -> None:
        latent = config.expert_latent_size if isinstance(config, ExpertsConfig) and "E" in config.symbols else None
        if latent is not None and (missing := missing_for_te()):
            raise ModelwrightError(
                f"`expert_latent_size` must be null where the engine cannot project with Transformer Engine, but is"
                f" {latent} and {' and '.join(missing)}; leave it out."
            )
        super().__init__(config, spec=spec, backend=backend, hooks=hooks, meta=meta)

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
