"""A family as small as one can be: what a user writes who brings a config and a builder of their own."""

from collections.abc import Mapping
from typing import Any, ClassVar, override

import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.config import ModelConfig, NoWrap, Parallelism, Precision, config_class
from modelwright.distributed import staged_pattern
from modelwright.layers import LanguageModelShape, StackModelBuilder, StackSpec

VOCABULARY, LENGTH = 32, 8


@config_class
class ToyConfig(ModelConfig):
    """One attention layer, one MLP layer."""

    kind: ClassVar[str] = "layers-toy"
    builder: ClassVar[str] = f"{__name__}:ToyBuilder"

    hidden_size: int = 16
    heads: int = 4
    groups: int = 2
    activation: str = "swiglu"
    normalization: str = "RMSNorm"
    tie_embeddings: bool = False
    bias: bool = False
    qk_norm: bool = False
    init_std: float = 0.02

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": 2,
            "hidden_size": self.hidden_size,
            "num_attention_heads": self.heads,
            "num_query_groups": self.groups,
            "ffn_hidden_size": 24,
            "activation": self.activation,
            "normalization": self.normalization,
            "layernorm_epsilon": 1e-5,
            "add_bias_linear": self.bias,
            "qk_layernorm": self.qk_norm,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "init_method_std": self.init_std,
        }


class ToyBuilder(StackModelBuilder[ToyConfig]):
    """The toy's builder."""

    @override
    def default_spec(self) -> StackSpec:
        return StackSpec()

    @override
    def shape(self, parallelism: Parallelism) -> LanguageModelShape:
        return LanguageModelShape(
            pattern=staged_pattern("*-", parallelism),
            vocab_size=VOCABULARY,
            seq_length=LENGTH,
            tie_embeddings=self.config.tie_embeddings,
            position_embedding="rope",
        )


def build(groups: ProcessGroupCollection, config: ToyConfig | None = None, **options: Any) -> HybridModel:
    """The initialized model of a config on one rank."""
    builder = ToyBuilder(config or ToyConfig(), **options)
    (stage,) = builder.build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(), wrap=NoWrap(), seed=1
    )
    assert isinstance(stage, HybridModel)
    return stage


def logits(model: HybridModel) -> Tensor:
    """[b, s, v] of a fixed batch."""
    tokens = torch.arange(LENGTH)[None] * 3 % VOCABULARY
    answer: Tensor = model(input_ids=tokens, position_ids=torch.arange(LENGTH)[None], attention_mask=None)
    return answer
