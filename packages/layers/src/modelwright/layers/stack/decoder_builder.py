"""`DecoderModelBuilder`: how a decoder of any family is assembled from its config.

The arguments around the stack and the default parts follow from `DecoderConfig` alone. The builder of a family adds
only the parts that its own layers need.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, cast, final, override

from modelwright.builders import Hook
from modelwright.config import MLA, DecoderConfig, Parallelism
from modelwright.distributed import staged_pattern
from modelwright.layers.rotary import ScaledRotaryEmbedding
from modelwright.layers.stack.assembly import LanguageModelShape
from modelwright.layers.stack.backends import TORCH, Backend, stack_spec
from modelwright.layers.stack.spec import StackSpec
from modelwright.layers.stack.stack_builder import StackModelBuilder
from modelwright.protocols import ModelwrightError, RotaryEmbeddingBuilder

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
    if scaling is None or config.has(MLA):  # the engine's MLA builds its own
        return None
    # The engine declares the stack and the inputs of `get_rotary_seq_len` more narrowly than it calls it.
    return partial(cast("Callable[..., RotaryEmbeddingInterface]", ScaledRotaryEmbedding), scaling=scaling)


class DecoderModelBuilder[ConfigT: DecoderConfig](StackModelBuilder[ConfigT]):
    """Builds a decoder from the config of a family.

    Override `build_model` for another module, or `build_distributed_models` for another lifecycle.
    """

    def __init__(
        self,
        config: ConfigT,
        *,
        spec: StackSpec | str | None = None,
        backend: str | None = None,
        hooks: Iterable[Hook] = (),
        meta: bool = False,
    ) -> None:
        super().__init__(config, spec=spec, backend=backend, hooks=hooks, meta=meta)
        if config.rope_scaling is not None and not config.has(MLA) and self.spec.rotary_embedding is None:
            rule = "`rotary_embedding` of the spec must be set for a model with `rope_scaling`"
            raise ModelwrightError(
                f"{rule}, but is None, and the engine's does not scale; start from `decoder_stack(config)`."
            )

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
            tokens=config.vocab_size,
            seq_length=config.seq_length,
            tie_embeddings=config.tie_embeddings,
            position_embedding="learned_absolute"
            if config.position_embedding == "learned"
            else config.position_embedding,
            rotary_base=config.rotary_base,
            rotary_percent=config.rotary_percent,
        )
