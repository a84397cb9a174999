"""A model of two modules: an encoder on rank 0 and a GPT on rank 1, connected by Megatron-Core's bridge.

The encoder reads enciphered letters, and the GPT predicts the plain letters. The letters are random, so only the hidden
states from the bridge can bring the loss below the uniform baseline `log(LETTERS)`. Only the gradient that returns over
the bridge trains the encoder. Run it with `python docs/examples/two_tower.py`, which starts both ranks.
"""

import math
from typing import TYPE_CHECKING, Any, override

import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel.bridge_communicator import BridgeCommunicator
from torch import Tensor

from modelwright.config import TrainConfig
from modelwright.distributed import BuiltModule, CompositeModelBuilder, ModulePlan, finalize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelBuilder, GPTModelConfig
from modelwright.training import launch, make_optimizer

if TYPE_CHECKING:
    from megatron.core.models.hybrid.hybrid_model import HybridModel
    from megatron.core.process_groups_config import ProcessGroupCollection

LETTERS, LENGTH, BATCH = 32, 16, 8
TOWER = GPTModelConfig(
    num_layers=1,
    hidden_size=32,
    num_attention_heads=4,
    vocab_size=LETTERS,
    vocab_multiple=LETTERS,
    seq_length=LENGTH,
    tie_embeddings=True,
)
TRAIN = TrainConfig(lr=1e-2, weight_decay=0.0)


class EncoderBuilder(GPTModelBuilder):
    """Builder of a GPT without its output layer, which returns hidden states [s, b, h]."""

    @override
    def build_model(self, pg_collection: "ProcessGroupCollection", **options: Any) -> "HybridModel":
        options["post_process"] = False
        return super().build_model(pg_collection, **options)


MODULES = {
    "encoder": ModulePlan(config=TOWER, ranks=range(1), builder=EncoderBuilder, seed=1),
    "gpt": ModulePlan(config=TOWER, ranks=range(1, 2), seed=2),
}


def letters(step: int) -> tuple[Tensor, Tensor]:
    """Return enciphered and plain letters, each [b, s]."""
    cipher = torch.randperm(LETTERS, generator=torch.Generator().manual_seed(0))
    clear_BS = torch.randint(LETTERS, (BATCH, LENGTH), generator=torch.Generator().manual_seed(step))
    device = torch.cuda.current_device()
    return cipher[clear_BS].to(device), clear_BS.to(device)


class Tower:
    """One module on one rank, with its own optimizer."""

    def __init__(self, module: BuiltModule) -> None:
        (self.stage,) = module.stages
        self.pg_collection = module.pg_collection
        self.optimizer: Any = make_optimizer(module.stages, TRAIN, MODULES["gpt"].precision, module.pg_collection)

    def encode(self, cipher_BS: Tensor) -> Tensor:
        """Return hidden states [s, b, h]."""
        positions_BS = torch.arange(LENGTH, device=cipher_BS.device).expand_as(cipher_BS)
        hidden_SBH: Tensor = self.stage(cipher_BS, positions_BS, None)
        return hidden_SBH

    def loss(self, hidden_SBH: Tensor, clear_BS: Tensor) -> Tensor:
        """Return the mean loss of a decoder with hidden states as its input embedding."""
        losses_BS: Tensor = self.stage(None, None, None, decoder_input=hidden_SBH, labels=clear_BS)
        return losses_BS.mean()

    def update(self) -> float:
        """Run an optimizer step, clear the gradients and return their norm."""
        stages: list[Any] = [self.stage]
        finalize_model_grads(stages, pg_collection=self.pg_collection)
        _, norm, _ = self.optimizer.step()
        stages[0].zero_grad_buffer()
        self.optimizer.zero_grad()
        return float(norm)


class Encoder(Tower):
    """The module that sends hidden states and receives their gradient."""

    def step(self, bridge: BridgeCommunicator, step: int) -> dict[str, float]:
        """Train on one batch."""
        cipher_BS, _ = letters(step)
        hidden_SBH = self.encode(cipher_BS)
        bridge.send_forward(hidden_SBH)
        hidden_SBH.backward(bridge.recv_backward())
        return {"grad_norm": self.update()}


class Decoder(Tower):
    """The module that receives hidden states and returns their gradient."""

    def step(self, bridge: BridgeCommunicator, step: int) -> dict[str, float]:
        """Train on one batch."""
        _, clear_BS = letters(step)
        hidden_SBH: Any = bridge.recv_forward().detach().requires_grad_()
        loss = self.loss(hidden_SBH, clear_BS)
        loss.backward()
        bridge.send_backward(hidden_SBH.grad)
        return {"loss": loss.item(), "grad_norm": self.update()}


def build() -> tuple[Encoder | Decoder, BridgeCommunicator]:
    """Return the module of this rank and the bridge between the two."""
    builder = CompositeModelBuilder(MODULES)
    groups = builder.initialize()
    ((name, module),) = builder.build_distributed_models(groups).items()
    source, target = groups["encoder"].grid, groups["gpt"].grid
    bridge = BridgeCommunicator(source, target, dim_mapping={"s": 0, "b": 1, "h": 2}, comm_dtype=torch.float32)
    return Encoder(module) if name == "encoder" else Decoder(module), bridge


def main(steps: int = 40) -> None:
    """Train as one of the two ranks."""
    with device_runtime():
        tower, bridge = build()
        records = [tower.step(bridge, step) for step in range(steps)]
        finalize()
    if "loss" in records[0]:
        print(f"loss {records[0]['loss']:.4f} -> {records[-1]['loss']:.4f}; uniform baseline {math.log(LETTERS):.4f}")


if __name__ == "__main__":
    launch(main, ranks=2)
