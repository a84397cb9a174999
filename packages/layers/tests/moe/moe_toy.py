"""The toy family with MoE layers: attention and an MoE layer, twice."""

from collections.abc import Mapping
from typing import Any, ClassVar, override

from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection

from modelwright.config import NoWrap, Parallelism, Precision, config_class
from modelwright.distributed import staged_pattern
from modelwright.layers import LanguageModelShape, StackModelBuilder, StackSpec
from packages.layers.tests.toy import LENGTH, VOCABULARY, ToyConfig

EXPERTS, TOPK, FFN = 4, 2, 12


@config_class
class MoeToyConfig(ToyConfig):
    """Attention and four experts, top 2, twice; the rest of the engine's fields through `engine`."""

    kind: ClassVar[str] = "layers-moe-toy"
    builder: ClassVar[str] = f"{__name__}:MoeToyBuilder"

    pattern: str = "*E*E"
    dispatcher: str = "alltoall"
    topk: int = TOPK

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            **super().engine_fields(),
            "num_layers": len(self.pattern),
            "num_moe_experts": EXPERTS,
            "moe_router_topk": self.topk,
            "moe_ffn_hidden_size": FFN,
            "moe_token_dispatcher_type": self.dispatcher,
        }


class MoeToyBuilder(StackModelBuilder[MoeToyConfig]):
    """The toy's builder."""

    @override
    def default_spec(self) -> StackSpec:
        return StackSpec()

    @override
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        return LanguageModelShape(
            pattern=staged_pattern(self.config.pattern, parallelism),
            vocab_size=VOCABULARY,
            seq_length=LENGTH,
            tie_embeddings=self.config.tie_embeddings,
            position_embedding="rope",
        )


def build_moe(groups: ProcessGroupCollection, config: MoeToyConfig | None = None, **options: Any) -> HybridModel:
    """The initialized model of a config on one rank."""
    builder = MoeToyBuilder(config or MoeToyConfig(), **options)
    (stage,) = builder.build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(), wrap=NoWrap(), seed=1
    )
    assert isinstance(stage, HybridModel)
    return stage
