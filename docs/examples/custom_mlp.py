"""A custom MLP in a GPT, checked by type checkers, built and trained.

Run it with `python docs/examples/custom_mlp.py`. It trains a small GPT with `LowRankMlp` as MLPs in one process.
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
    """An MLP of low-rank matrices. Every tensor-parallel rank stores all weights, so use it with `tensor: 1`."""

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
        """Transform [s, b, h] to [s, b, h], without a bias."""
        return self.layers(hidden_SBH), None


# Type checkers compare the class with the slot here; `MlpLayerSpec` does the same at run time.
low_rank_mlp: MlpBuilder = LowRankMlp

MODEL = GPTModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=256, seq_length=64)


def low_rank_stack(config: GPTModelConfig) -> StackSpec:
    """Return the parts of a GPT, with the custom MLP in the `mlp` slot."""
    return replace(decoder_stack(config), mlp=MlpLayerSpec(mlp=low_rank_mlp))


# A run file selects it with `stack: low_rank`; the option `--import custom_mlp` loads this module.
register_stack("low_rank", low_rank_stack)


def main(steps: int = 20) -> list[StepRecord]:
    """Train for a few steps."""
    run = RunConfig(model=MODEL, train=TrainConfig(steps=steps, micro_batch=8, global_batch=8, lr=3e-3))
    with device_runtime():
        records = train(run, spec=low_rank_stack(MODEL))
        finalize()
    return records


if __name__ == "__main__":
    for record in main():
        print(f"step {record.step}: loss {record.loss:.4f}")
