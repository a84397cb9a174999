"""What the ranks of the integration tests run; importable, because the ranks find it by name."""

import logging
import warnings
from typing import Any

import torch

from modelwright.config import MegatronDDP, NoWrap, Parallelism, Precision, RunConfig, TrainConfig, Wrap, replace
from modelwright.gpt import GPTModelConfig

TINY = GPTModelConfig(
    num_layers=4, hidden_size=64, num_attention_heads=8, num_query_groups=4, vocab_size=256, seq_length=64
)
DDP, FLOAT32 = MegatronDDP(), Precision()


def losses(
    parallelism: Parallelism,
    changes: dict[str, Any] | None = None,
    steps: int = 20,
    wrap: Wrap = DDP,
    precision: Precision = FLOAT32,
) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    _quiet()
    from modelwright.training import train

    run = RunConfig(
        model=replace(TINY, **(changes or {})),
        parallelism=parallelism,
        wrap=wrap,
        precision=precision,
        train=TrainConfig(steps=steps, micro_batch=2, global_batch=8, lr=1e-3),
    )
    return [(record.loss, record.grad_norm) for record in train(run)]


def logits(
    config: GPTModelConfig, parallelism: Parallelism, whole: dict[str, torch.Tensor], tokens_BS: torch.Tensor
) -> torch.Tensor:
    """Logits [b, s, v] of a model with the given whole weights, gathered over the tensor ranks."""
    _quiet()
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, load_whole_state

    groups = initialize(parallelism)
    stages = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap()
    )
    load_whole_state(stages, whole, groups)
    positions = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    with torch.no_grad():
        answer: torch.Tensor = stages[0].eval()(tokens_BS, positions, None, runtime_gather_output=True)
    return answer


def _quiet() -> None:
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
