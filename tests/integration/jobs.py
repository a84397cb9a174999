"""Functions that the ranks of the integration tests run, and import by name."""

import logging
import warnings

import torch
from torch import nn

from modelwright.config import ModelConfig, NoWrap, Parallelism, Precision, RunConfig
from modelwright.gpt import GPTModelConfig

TINY = GPTModelConfig(
    num_layers=4, hidden_size=64, num_attention_heads=8, num_query_groups=4, vocab_size=256, seq_length=64
)


def logits(
    config: GPTModelConfig, parallelism: Parallelism, whole: dict[str, torch.Tensor], tokens_BS: torch.Tensor
) -> torch.Tensor:
    """Return logits [b, s, v] of a model with the given full weights, gathered over the tensor ranks."""
    quiet()
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, load_full_state_dict

    groups = initialize(parallelism)
    stages = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap()
    )
    load_full_state_dict(stages, whole, groups)
    positions = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    with torch.no_grad():
        answer: torch.Tensor = stages[0].eval()(tokens_BS, positions, None, runtime_gather_output=True)
    return answer


def quiet() -> None:
    """No warnings of the engine in the output of a failing test."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")


def losses_with_the_engines_sends(run: RunConfig) -> list[float]:
    """Train with the point-to-point communication that the engine's config has by default."""
    quiet()
    from modelwright.builders import BuildContext, Hook
    from modelwright.distributed import engine_config, unwrapped
    from modelwright.training import train

    def as_shipped(stages: list[nn.Module], context: BuildContext) -> None:
        for stage in stages:
            config = engine_config(unwrapped(stage))
            config.overlap_p2p_comm, config.batch_p2p_comm = False, True

    hook = Hook(name="the engine's default", phase="after_wrap", function=as_shipped)
    return [record.loss for record in train(run, hooks=[hook])]


def logits_and_gradients(
    config: ModelConfig,
    parallelism: Parallelism,
    whole: dict[str, torch.Tensor],
    tokens_BS: torch.Tensor,
    weights_BSV: torch.Tensor,
) -> tuple[torch.Tensor, dict[str, list[tuple[tuple[int, ...], tuple[int, ...], torch.Tensor]]]]:
    """Return logits [b, s, v] of a model with the given full weights, and this rank's parts of the gradients.

    The gradients are those of the sum of the logits times `weights_BSV`. Each is given by the name of the full weight,
    in parts: the shape of the full weight, the offset of the part, and the part.
    """
    quiet()
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, load_full_state_dict, local_shards

    groups = initialize(parallelism)
    (model,) = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=NoWrap()
    )
    load_full_state_dict([model], whole, groups)
    positions = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    answer: torch.Tensor = model(tokens_BS, positions, None, runtime_gather_output=True)
    answer = answer[..., : weights_BSV.size(-1)]
    (answer * weights_BSV).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    parts: dict[str, list[tuple[tuple[int, ...], tuple[int, ...], torch.Tensor]]] = {}
    for shard, local in local_shards(model, groups):
        part = (tuple(shard.global_shape), tuple(shard.global_offset), local.detach().clone())
        parts.setdefault(shard.key, []).append(part)
    return answer.detach(), parts
