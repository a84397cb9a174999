"""A stage of the engine's own parts, as small as one can be."""

import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import ColumnParallelLinear
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from modelwright.distributed import NormalInit


def engine_config(**fields: object) -> TransformerConfig:
    """The engine's config of a tiny stage."""
    return TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1, **fields)  # type: ignore[arg-type]


class TinyStage(MegatronModule):
    """A linear layer of the engine and a scale that it knows nothing of."""

    def __init__(self, groups: ProcessGroupCollection, config: TransformerConfig | None = None) -> None:
        super().__init__(config or engine_config())
        self.linear = ColumnParallelLinear(
            8,
            16,
            config=self.config,
            init_method=NormalInit(0.02),
            bias=True,
            skip_bias_add=False,
            gather_output=False,
            tp_group=groups.tp,
        )
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, hidden: Tensor) -> Tensor:
        """Scaled outputs."""
        output: Tensor = self.linear(hidden)[0] * self.scale
        return output
