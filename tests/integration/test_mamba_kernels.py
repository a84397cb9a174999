"""The kernels `mamba_ssm` compute what the kernels `torch` compute; they need mamba-ssm, causal-conv1d and a GPU.

Without: packages/mamba/tests test the message to a user who selects them. docs/gpu.md lists these.
"""

import pytest
import torch

from modelwright.config import Parallelism, Precision, replace
from modelwright.mamba import MambaModelConfig
from modelwright.testing import RankPool
from tests.integration.jobs import quiet
from tests.integration.test_mamba_parity import HYBRID, TINY

MODELS = {"mamba": TINY, "hybrid": HYBRID, "options": replace(TINY, d_per_channel=True, dt_limit=(0.002, 0.05))}


def logits_and_gradient(config: MambaModelConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a whole sequence, the same read token by token, and all gradients in one vector; bfloat16."""
    quiet()
    from megatron.core.inference.contexts import StaticInferenceContext

    from modelwright.builders import builder_for
    from modelwright.config import NoWrap
    from modelwright.distributed import initialize

    groups = initialize(Parallelism())
    (stage,) = builder_for(config).build_distributed_models(
        groups, parallelism=Parallelism(), precision=Precision(params="bfloat16"), wrap=NoWrap()
    )
    tokens_BS = torch.randint(256, (2, 32), generator=torch.Generator().manual_seed(0)).cuda()
    positions_BS = torch.arange(32).expand(2, 32).cuda()
    whole = stage(tokens_BS, positions_BS, None).float()
    whole.square().mean().backward()
    gradient = torch.cat([p.grad.float().flatten() for p in stage.parameters() if p.grad is not None])
    cache, parts = StaticInferenceContext(max_batch_size=2, max_sequence_length=32), []
    with torch.no_grad():
        for start, stop in [(0, 16), *((i, i + 1) for i in range(16, 32))]:
            there = slice(start, stop)
            found = stage.eval()(tokens_BS[:, there], positions_BS[:, there], None, inference_context=cache)
            parts.append(found[:, -1:].float())
            cache.increment_sequence_len_offset(stop - start)
    return whole.detach().cpu(), torch.cat(parts, dim=1).cpu(), gradient.cpu()


@pytest.mark.gpu
@pytest.mark.parametrize("model", MODELS)
def test_they_compute_what_the_torch_kernels_compute(model: str, two_ranks: RankPool) -> None:
    from modelwright.layers import missing_for_kernels

    if missing := missing_for_kernels():
        pytest.skip(" and ".join(missing))
    (expected,), (found,) = (
        two_ranks.run(logits_and_gradient, replace(MODELS[model], kernels=kernels), ranks=1)
        for kernels in ("torch", "mamba_ssm")
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=3e-2, atol=3e-2)
    torch.testing.assert_close(expected[1], expected[0][:, 15:], rtol=3e-2, atol=3e-2)
