"""Functions that the ranks of the tests of models with experts run, and import by name."""

import torch
from torch import Tensor

from modelwright.config import MegatronDDP, Parallelism, Precision
from modelwright.moe import MoeModelConfig
from tests.integration.jobs import quiet
from tests.integration.test_moe_parts import Shard


def logits_and_gradients(
    config: MoeModelConfig, parallelism: Parallelism, whole: dict[str, Tensor], tokens_BS: Tensor, labels_BS: Tensor
) -> tuple[Tensor, list[Shard]]:
    """Run a model with the given full weights.

    Returns:
        Logits [b, s, v], and this rank's parts of the gradient of the mean loss, after a global batch that the data
        ranks have shared.
    """
    quiet()
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, load_full_state_dict, local_shards, unwrapped
    from modelwright.training import Batch, run_batch

    groups = initialize(parallelism)
    stages = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=MegatronDDP()
    )
    load_full_state_dict(stages, whole, groups)
    positions = torch.arange(tokens_BS.size(1)).expand_as(tokens_BS)
    with torch.no_grad():
        logits: Tensor = stages[0].eval()(tokens_BS, positions, None)
    stages[0].train()
    run_batch(stages, Batch(tokens_BS, labels_BS), groups, parallelism, micro_batch=1)
    stage = unwrapped(stages[0])
    with torch.no_grad():
        for parameter in stage.parameters():
            parameter.copy_(parameter.main_grad)  # type: ignore[attr-defined]  # an attribute of the engine
    parts = [
        (shard.key, tuple(shard.global_shape), tuple(shard.global_offset), local.detach().clone())
        for shard, local in local_shards(stage, groups)
    ]
    return logits, parts
