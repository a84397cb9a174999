"""A custom router in an MoE model, checked by type checkers, built and trained.

Run it with `python docs/examples/custom_router.py`. It trains a small model with `CosineRouter` as routers in one
process. `modelwright train docs/examples/moe-tiny.yaml --import custom_router --set stack=cosine` trains the example
of the docs with it, on two ranks.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.config import RunConfig, TrainConfig
from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.layers import MoeLayerSpec, MoeSpec, StackSpec, mark_sequence_parallel, register_stack
from modelwright.moe import MoeModelConfig, moe_stack
from modelwright.protocols import RouterBuilder
from modelwright.training import StepRecord, train

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


class CosineRouter(nn.Module):
    """A router that selects the experts with the most similar directions to a token (arXiv:2204.09179)."""

    def __init__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool,
        sharpness: float = 8.0,
    ) -> None:
        super().__init__()
        self.top_k, self.sharpness = config.moe_router_topk, sharpness
        device = torch.cuda.current_device()
        self.directions = nn.Parameter(torch.empty(config.num_moe_experts or 1, config.hidden_size, device=device))
        if config.init_method is not None:
            config.init_method(self.directions)
        # Under sequence parallelism each rank routes its own tokens. The engine all-reduces gradients with this mark.
        mark_sequence_parallel(self.directions, enabled=config.sequence_parallel)

    def set_layer_number(self, layer_number: int, /) -> None:
        """Ignore the layer number, under which the engine's routers log their losses."""

    def forward(self, hidden_SBH: Tensor, padding_mask: Tensor | None, /) -> tuple[Tensor, Tensor]:
        """Return router probabilities and the map of selected experts of [s, b, h], both [s * b, e]."""
        tokens = F.normalize(hidden_SBH.flatten(0, 1).float(), dim=-1)
        scores = self.sharpness * tokens @ F.normalize(self.directions.float(), dim=-1).t()
        best = scores.topk(self.top_k, dim=-1).indices
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, value=True)
        weights = scores.masked_fill(~chosen, float("-inf")).softmax(dim=-1)
        return weights.to(hidden_SBH.dtype), chosen


# Type checkers compare the class with the slot here; `MoeSpec` does the same at run time.
cosine_router: RouterBuilder = CosineRouter

MODEL = MoeModelConfig(
    num_layers=2,
    hidden_size=64,
    num_attention_heads=4,
    num_experts=4,
    top_k=2,
    expert_ffn_hidden_size=64,
    vocab_size=256,
    seq_length=64,
)


def cosine_stack(config: MoeModelConfig) -> StackSpec:
    """Return the parts of the family, with the custom router in the `router` slot."""
    return replace(moe_stack(config), moe=MoeLayerSpec(mlp=MoeSpec(router=cosine_router)))


# A run file selects it with `stack: cosine`; the option `--import custom_router` loads this module.
register_stack("cosine", cosine_stack)


def main(steps: int = 20) -> list[StepRecord]:
    """Train for a few steps."""
    run = RunConfig(model=MODEL, train=TrainConfig(steps=steps, micro_batch=8, global_batch=8, lr=3e-3))
    with device_runtime():
        records = train(run, spec=cosine_stack(MODEL))
        finalize()
    return records


if __name__ == "__main__":
    for record in main():
        print(f"step {record.step}: loss {record.loss:.4f}")
