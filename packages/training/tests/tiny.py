"""A family of the tests: a language model that reads one byte and guesses the next, on the engine's base module."""

from typing import Any, ClassVar, override

import torch
from megatron.core.enums import ModelType
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from modelwright.builders import ModelBuilder
from modelwright.config import ModelConfig, Precision, RunConfig, TrainConfig, config_class, register_config
from modelwright.distributed import build_stages


@register_config
@config_class
class BigramConfig(ModelConfig):
    """Its fields are those that training on text asks for, and a width."""

    kind: ClassVar[str] = "training-bigram"
    builder: ClassVar[str] = f"{__name__}:BigramBuilder"

    vocab_size: int = 256
    """Tokens."""

    seq_length: int = 16
    """Tokens in a sequence."""

    width: int = 16
    """Rows of the embedding."""


class Bigram(MegatronModule):
    """Called as the engine's language models are."""

    def __init__(self, config: BigramConfig, precision: Precision | None = None) -> None:
        params = "float32" if precision is None else precision.params
        dtypes = {"fp16": params == "float16", "bf16": params == "bfloat16", "params_dtype": getattr(torch, params)}
        super().__init__(TransformerConfig(num_layers=1, hidden_size=config.width, num_attention_heads=1, **dtypes))
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.output = nn.Linear(config.width, config.vocab_size)
        self.model_type = ModelType.encoder_or_decoder
        self.pre_process = self.post_process = True
        self.share_embeddings_and_output_weights = False

    def set_input_tensor(self, tensor: object) -> None:
        """The pipeline's schedule hands over what the stage before made; there is none."""

    def forward(self, tokens_BS: Tensor, *ignored: object, labels: Tensor | None = None, **unused: Any) -> Tensor:
        """Losses [b, s] where labels are given, logits [b, s, v] otherwise."""
        logits_BSV: Tensor = self.output(self.embedding(tokens_BS))
        if labels is None:
            return logits_BSV
        return cross_entropy(logits_BSV.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)


class BigramBuilder(ModelBuilder[Bigram, BigramConfig]):
    """The family's builder."""

    @override
    def build_model(self, pg_collection: Any, **options: Any) -> Bigram:
        torch.manual_seed(0)
        return Bigram(self.config, options.get("precision"))

    @override
    def build_distributed_models(self, pg_collection: Any, **options: Any) -> list[nn.Module]:
        return build_stages(
            lambda vp_stage: self.build_model(pg_collection, precision=options["precision"]),
            config=self.config,
            pg_collection=pg_collection,
            hooks=self.hooks,
            **options,
        )


def bigram_run(steps: int = 8, **train: Any) -> RunConfig:
    """A run of it that learns in a few steps."""
    given: dict[str, Any] = {"steps": steps, "micro_batch": 2, "global_batch": 4, "lr": 0.05} | train
    return RunConfig(model=BigramConfig(), train=TrainConfig(**given))
