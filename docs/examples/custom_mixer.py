"""A custom mixer in a Mamba model: a gated convolution that trains and generates.

Run it with `python docs/examples/custom_mixer.py`. It trains a small hybrid with `GatedConvolution` in its layers `M`
in one process.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from megatron.core.inference.contexts import StaticInferenceContext
from torch import Tensor, nn

from modelwright.config import RunConfig, TrainConfig
from modelwright.distributed import finalize
from modelwright.engine import device_runtime
from modelwright.layers import MambaLayerSpec, StackSpec, decoder_stack, register_stack
from modelwright.mamba import MambaModelConfig
from modelwright.protocols import MambaMixerBuilder
from modelwright.training import StepRecord, train

if TYPE_CHECKING:
    from megatron.core.inference.contexts import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


class GatedConvolution(nn.Module):
    """A gated convolution over the last `width` positions. It is not sharded, so use it with `tensor: 1`."""

    def __init__(
        self,
        config: "TransformerConfig",
        /,
        *,
        d_model: int,
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        pp_layer_offset: int,
        name: str | None = None,
        width: int = 8,
    ) -> None:
        super().__init__()
        self.layer_number, self.width = layer_number, width
        self.inputs = nn.Linear(d_model, 2 * d_model, bias=False)
        self.filters = nn.Linear(width, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        inference_context: "BaseInferenceContext | None" = None,
        packed_seq_params: "PackedSeqParams | None" = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Transform [s, b, h] to [s, b, h], without a bias."""
        value, gate = self.inputs(hidden_SBH).chunk(2, dim=-1)
        seen = torch.cat([self.remembered(value, inference_context), value])
        if isinstance(inference_context, StaticInferenceContext):
            inference_context.key_value_memory_dict[self.layer_number] = seen[1 - self.width :]
        # `unfold` gives [s, b, h, width]: each position with the `width` - 1 before it.
        mixed = (seen.unfold(0, self.width, 1) * self.filters.weight).sum(-1)
        return self.output(mixed * nn.functional.silu(gate)), None

    def remembered(self, value: Tensor, context: Any) -> Tensor:
        """Return the `width` - 1 previous positions: zeros, or in generation those in the engine's context."""
        if context is not None and context.sequence_len_offset:
            known: Tensor = context.key_value_memory_dict[self.layer_number]
            return known
        return value.new_zeros(self.width - 1, *value.shape[1:])


# Type checkers compare the class with the slot here; `MambaLayerSpec` does the same at run time.
gated_convolution: MambaMixerBuilder = GatedConvolution

MODEL = MambaModelConfig(pattern="M-M-", hidden_size=64, vocab_size=256, seq_length=64)


def gated_stack(config: MambaModelConfig) -> StackSpec:
    """Return the parts of the family, with the custom mixer in the layers `M`."""
    return replace(decoder_stack(config), mamba=MambaLayerSpec(mixer=gated_convolution))


# A run file selects it with `stack: gated_convolution`; the option `--import custom_mixer` loads this module.
register_stack("gated_convolution", gated_stack)


def main(steps: int = 20) -> list[StepRecord]:
    """Train for a few steps."""
    run = RunConfig(model=MODEL, train=TrainConfig(steps=steps, micro_batch=8, global_batch=8, lr=3e-3))
    with device_runtime():
        records = train(run, spec=gated_stack(MODEL))
        finalize()
    return records


if __name__ == "__main__":
    for record in main():
        print(f"step {record.step}: loss {record.loss:.4f}")
