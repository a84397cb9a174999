"""A custom MLP with a gate for each token, once with a bug that only tensor parallelism shows, and once without it.

Run it with `python docs/examples/verify_gate.py`. It verifies a small GPT with both on two layouts.
"""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer import utils
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from torch import Tensor, nn

from modelwright.config import RunConfig, TrainConfig
from modelwright.gpt import GPTModelConfig
from modelwright.layers import MlpLayerSpec, StackSpec, decoder_stack, register_stack
from modelwright.verify import Verdict, verify

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


class GatedMlp(nn.Module):
    """The engine's MLP, multiplied by a learned gate for each token."""

    def __init__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool,
        name: str | None = None,
        marked: bool = False,
    ) -> None:
        super().__init__()
        linears = MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=RowParallelLinear)
        self.mlp = MLP(config, linears, tp_group=pg_collection.tp)
        self.gate = nn.Linear(config.hidden_size, 1, bias=False)
        if marked:  # without the mark, each tensor rank trains the gate on its own part of the sequence
            vars(self.gate.weight)["sequence_parallel"] = config.sequence_parallel

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Transform [s, b, h] to [s, b, h], without a bias."""
        output, _ = self.mlp(hidden_SBH)
        return output * torch.sigmoid(self.gate(hidden_SBH)), None

    def sharded_state_dict(self, prefix: str, sharded_offsets: Any = (), metadata: Any = None) -> dict[str, Any]:
        """Return which part of the unsharded weights this rank has."""
        parts = {"mlp": self.mlp, "gate": self.gate}
        found: dict[str, Any] = {}
        for part, module in parts.items():
            found |= utils.sharded_state_dict_default(module, f"{prefix}{part}.", sharded_offsets, metadata)
        return found


def gated_stack(config: GPTModelConfig, *, marked: bool) -> StackSpec:
    """Return the parts of a GPT with the custom MLP."""
    return replace(decoder_stack(config), mlp=MlpLayerSpec(mlp=partial(GatedMlp, marked=marked)))


# `modelwright verify FILE --import verify_gate --set stack=gated` verifies it in a model of a file.
register_stack("gated", partial(gated_stack, marked=False))

MODEL = GPTModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=256, seq_length=64)
RUN = RunConfig(model=MODEL, train=TrainConfig(micro_batch=2, global_batch=8, lr=1e-2))


def main() -> list[Verdict]:
    """Verify both variants."""
    layouts = ["tensor=2", "tensor=2 sequence"]
    return [verify(RUN, layouts=layouts, spec=gated_stack(MODEL, marked=marked)) for marked in (False, True)]


if __name__ == "__main__":
    for verdict in main():
        for layout in verdict.layouts:
            print(f"{layout.name}: {layout.outcome} {layout.sentence()}")
