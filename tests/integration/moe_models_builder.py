"""The builder of `MoePartsConfig`, apart from it because it loads the engine."""

from typing import override

from modelwright.config import Parallelism
from modelwright.distributed import staged_pattern
from modelwright.layers import LanguageModelShape, StackModelBuilder, StackSpec, stack_spec
from tests.integration.moe_models import MoePartsConfig


class MoePartsBuilder(StackModelBuilder[MoePartsConfig]):
    """Builds the engine's stack from the parts of a backend."""

    @override
    def default_spec(self) -> StackSpec:
        return stack_spec(self.backend)

    @override
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        return LanguageModelShape(
            pattern=staged_pattern(self.config.pattern, parallelism, unit=2),
            vocab_size=self.config.vocab_size,
            seq_length=self.config.seq_length,
            tie_embeddings=False,
            position_embedding="rope",
        )
