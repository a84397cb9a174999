"""Three custom models: your own config, your own builder, or both.

Run it with `python docs/examples/custom_builders.py`. It trains each model for a few steps in one process.
"""

from typing import TYPE_CHECKING, Any, ClassVar, override

from megatron.core.enums import ModelType
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.transformer import MegatronModule, TransformerConfig
from torch import Tensor, nn

from modelwright.builders import ModelBuilder, register_builder
from modelwright.config import (
    Count,
    ModelConfig,
    Parallelism,
    Precision,
    RunConfig,
    TrainConfig,
    Wrap,
    config_class,
    register_config,
)
from modelwright.distributed import NormalInit, build_stages, finalize
from modelwright.engine import device_runtime
from modelwright.gpt import GPTModelBuilder, GPTModelConfig
from modelwright.training import train

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


# 1. A custom config with a stock builder: one more field, and its effect on the engine.
@register_config
@config_class
class WideGPTConfig(GPTModelConfig):
    """A GPT with MLPs that are an integer multiple of the hidden size wide."""

    kind: ClassVar[str] = "wide_gpt"

    widening: Count = 8
    """Ratio of the inner size of an MLP to the hidden size."""

    @property
    @override
    def resolved_ffn_hidden_size(self) -> int:
        return self.widening * self.hidden_size


# 2. A custom builder for a stock config: the same lifecycle, another stage.
class FrozenEmbeddingBuilder(GPTModelBuilder):
    """A GPT with a frozen embedding."""

    @override
    def build_model(self, pg_collection: "ProcessGroupCollection", **options: Any) -> HybridModel:
        model = super().build_model(pg_collection, **options)
        if model.pre_process:
            model.embedding.requires_grad_(requires_grad=False)
        return model


# 3. Both: a model that is not a stack of layers.
@register_config
@config_class
class BigramConfig(ModelConfig):
    """A model that predicts each byte from the previous one."""

    kind: ClassVar[str] = "bigram"
    builder: ClassVar[str] = "custom_builders:BigramBuilder"

    vocab_size: int
    """Number of tokens in the vocabulary."""

    seq_length: int
    """Number of tokens in a sequence."""


class Bigram(MegatronModule):
    """A table of logits, with the members that the engine's schedules and gradient finalization require."""

    model_type = ModelType.encoder_or_decoder
    share_embeddings_and_output_weights = False

    def __init__(self, config: TransformerConfig, vocab_size: int) -> None:
        super().__init__(config=config)
        self.table = nn.Embedding(vocab_size, vocab_size)
        NormalInit(0.02)(self.table.weight)

    def set_input_tensor(self, input_tensor: Tensor | None) -> None:
        """Ignore the input of the previous stage, because there is none."""

    def forward(
        self, tokens_BS: Tensor, positions_BS: Tensor, attention_mask: None, labels: Tensor | None = None
    ) -> Tensor:
        """Return the losses [b, s] of the labels, or the logits [b, s, v] without labels."""
        logits_BSV: Tensor = self.table(tokens_BS)
        if labels is None:
            return logits_BSV
        return nn.functional.cross_entropy(logits_BSV.transpose(1, 2), labels, reduction="none")


class BigramBuilder(ModelBuilder[Bigram, BigramConfig]):
    """A builder that overrides both methods and uses the lifecycle of all families."""

    @override
    def build_model(self, pg_collection: "ProcessGroupCollection", **options: Any) -> Bigram:
        return Bigram(TransformerConfig(num_layers=1, hidden_size=8, num_attention_heads=1), self.config.vocab_size)

    @override
    def build_distributed_models(
        self,
        pg_collection: "ProcessGroupCollection",
        *,
        parallelism: Parallelism,
        precision: Precision,
        wrap: Wrap,
        seed: int = 1234,
    ) -> list[nn.Module]:
        return build_stages(
            lambda vp_stage: self.build_model(pg_collection),
            config=self.config,
            pg_collection=pg_collection,
            parallelism=parallelism,
            precision=precision,
            wrap=wrap,
            hooks=self.hooks,
            seed=seed,
        )


register_builder("bigram", BigramBuilder)


WIDE = WideGPTConfig(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=256, seq_length=64)
GPT = GPTModelConfig(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=256, seq_length=64)
BIGRAM = BigramConfig(vocab_size=256, seq_length=64)


def losses(model: ModelConfig, steps: int = 10) -> list[float]:
    """Return the losses of a short run."""
    run = RunConfig(model=model, train=TrainConfig(steps=steps, micro_batch=4, global_batch=4, lr=3e-3))
    with device_runtime():
        records = train(run)
        finalize()
    return [record.loss for record in records]


def main(steps: int = 10) -> dict[str, list[float]]:
    """Return the losses of one short run for each model."""
    register_builder("gpt", FrozenEmbeddingBuilder)  # for one build only: builder_for(config, builder=...)
    return {config.kind: losses(config, steps) for config in (WIDE, GPT, BIGRAM)}


if __name__ == "__main__":
    for kind, curve in main().items():
        print(f"{kind}: loss {curve[0]:.4f} -> {curve[-1]:.4f}")
