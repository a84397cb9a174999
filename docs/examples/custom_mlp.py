"""A part of your own in a GPT: an MLP class, checked by the type checker, built and trained.

Run it with `python docs/examples/custom_mlp.py`: it trains a small GPT whose MLPs are `LowRankMlp` on one process.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from modelwright.config import RunConfig, TrainConfig
from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelConfig
from modelwright.layers import MlpLayerSpec, StackSpec, decoder_stack, register_stack
from modelwright.protocols import MlpBuilder
from modelwright.training import StepRecord, train

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


class LowRankMlp(nn.Module):
    """An MLP whose two matrices are products of thin ones. Replicated over tensor ranks, so use it with `tensor: 1`."""

    def __init__(
        self,
        *,
        config: "TransformerConfig",
        pg_collection: "ProcessGroupCollection",
        is_mtp_layer: bool,
        name: str | None = None,
        rank: int = 16,
    ) -> None:
        super().__init__()
        hidden, wide = config.hidden_size, 4 * config.hidden_size
        self.layers = nn.Sequential(
            nn.Linear(hidden, rank, bias=False),
            nn.Linear(rank, wide, bias=False),
            nn.GELU(),
            nn.Linear(wide, rank, bias=False),
            nn.Linear(rank, hidden, bias=False),
        )

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """From [s, b, h] to [s, b, h] and no bias."""
        return self.layers(hidden_SBH), None


# Your type checker compares the class with the slot here; `MlpLayerSpec` does the same when it is made.
low_rank_mlp: MlpBuilder = LowRankMlp

MODEL = GPTModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=256, seq_length=64)


def low_rank_stack(config: GPTModelConfig) -> StackSpec:
    """The GPT's own parts, with our MLP in the `mlp` slot."""
    return replace(decoder_stack(config), mlp=MlpLayerSpec(mlp=low_rank_mlp))


# With this, a file may say `stack: low_rank` and the command line `--import custom_mlp`.
register_stack("low_rank", low_rank_stack)


def main(steps: int = 20) -> list[StepRecord]:
    """Train for some steps."""
    run = RunConfig(model=MODEL, train=TrainConfig(steps=steps, micro_batch=8, global_batch=8, lr=3e-3))
    with device_runtime():
        records = train(run, spec=low_rank_stack(MODEL))
        finalize()
    return records


if __name__ == "__main__":
    for record in main():
        print(f"step {record.step}: loss {record.loss:.4f}")
