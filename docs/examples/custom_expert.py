"""Custom experts in an MoE model: one class with all experts of a rank, built and trained.

Run it with `python docs/examples/custom_expert.py`. It trains a small model with `BottleneckExperts` as experts in one
process.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.config import RunConfig, TrainConfig
from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.layers import MoeLayerSpec, MoeSpec, StackSpec, register_stack
from modelwright.moe import MoeModelConfig, moe_stack
from modelwright.protocols import ExpertsBuilder
from modelwright.training import StepRecord, train

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


class BottleneckExperts(nn.Module):
    """Experts of two low-rank matrices each. They are not sharded: use `expert: 1` and `tensor: 1`."""

    def __init__(
        self,
        num_local_experts: int,
        config: "TransformerConfig",
        /,
        *,
        pg_collection: "ProcessGroupCollection",
        name: str | None = None,
        width: int = 16,
    ) -> None:
        super().__init__()
        device = torch.cuda.current_device()
        self.down = nn.Parameter(torch.empty(num_local_experts, width, config.hidden_size, device=device))
        self.up = nn.Parameter(torch.empty(num_local_experts, config.hidden_size, width, device=device))
        for weight in (self.down, self.up):
            nn.init.normal_(weight, std=config.init_method_std)

    def forward(
        self, dispatched_input: Tensor, tokens_per_expert: Tensor, permuted_probs: Tensor, /
    ) -> tuple[Tensor, Tensor | None]:
        """Transform tokens sorted by expert, [tokens, h], and scale them by their probability, without a bias."""
        parts = dispatched_input.tensor_split(tokens_per_expert.cumsum(0)[:-1].cpu())
        made = [
            F.linear(F.gelu(F.linear(part, down)), up) for part, down, up in zip(parts, self.down, self.up, strict=True)
        ]
        return torch.cat(made) * permuted_probs[:, None], None


# Type checkers compare the class with the slot here; `MoeSpec` does the same at run time.
bottleneck_experts: ExpertsBuilder = BottleneckExperts

MODEL = MoeModelConfig(
    num_layers=2,
    hidden_size=64,
    num_attention_heads=4,
    num_experts=8,
    top_k=2,
    expert_ffn_hidden_size=64,
    vocab_size=256,
    seq_length=64,
)


def bottleneck_stack(config: MoeModelConfig) -> StackSpec:
    """Return the parts of the family, with the custom experts in the `experts` slot."""
    return replace(moe_stack(config), moe=MoeLayerSpec(mlp=MoeSpec(experts=bottleneck_experts)))


# A run file selects it with `stack: bottleneck`; the option `--import custom_expert` loads this module.
register_stack("bottleneck", bottleneck_stack)


def main(steps: int = 20) -> list[StepRecord]:
    """Train for a few steps."""
    run = RunConfig(model=MODEL, train=TrainConfig(steps=steps, micro_batch=8, global_batch=8, lr=3e-3))
    with device_runtime():
        records = train(run, spec=bottleneck_stack(MODEL))
        finalize()
    return records


if __name__ == "__main__":
    for record in main():
        print(f"step {record.step}: loss {record.loss:.4f}")
