"""Experts of the backend `te`, seen on stand-ins: they are those of `torch` in values, checkpoints and curves.

The engine's own `TEGroupedMLP` runs here; only its grouped linears are stand-ins (`te_parts.py`), which hold and
describe what Transformer Engine's hold and describe.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from modelwright.config import MegatronDDP, Parallelism, Precision, RunConfig, replace
from modelwright.testing import RankPool
from tests.integration.jobs import quiet
from tests.integration.moe_models import LAYOUTS, MODEL, RUN
from tests.integration.test_te_backend import answered, missing_here

SHARED = replace(MODEL, shared_experts=1, shared_expert_ffn_hidden_size=16)


def spec_of(*, grouped: bool) -> Any:
    from modelwright.layers import TORCH, stack_spec
    from tests.integration.te_parts import STAND_IN

    return stack_spec(STAND_IN if grouped else TORCH)


def weights(grouped: bool, parallelism: Parallelism) -> tuple[str, dict[str, Tensor]]:
    """The class of the experts, and every weight of this rank by its place in the whole model."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, local_shards

    groups = initialize(parallelism)
    builder = builder_for(SHARED, spec=spec_of(grouped=grouped))
    (model,) = builder.build_for_inference(groups, parallelism=parallelism, precision=Precision())
    held = {f"{shard.key}/{shard.global_offset}": local.clone() for shard, local in local_shards(model, groups)}
    return type(model.decoder.layers[1].mlp.experts).__name__, held


def curve(run: RunConfig, grouped: bool, folder: Path | None = None, resume: Path | None = None) -> list[float]:
    quiet()
    from modelwright.training import train

    records = train(run, spec=spec_of(grouped=grouped), out=folder, resume=resume)
    return [value for record in records for value in (record.loss, record.grad_norm)]


@pytest.mark.parametrize("layout", ["expert 2", "expert tensor 2 of data 2"])
def test_initial_values_are_those_of_the_other_backend(layout: str, two_ranks: RankPool) -> None:
    ours, grouped = (two_ranks.run(weights, flag, LAYOUTS[layout]) for flag in (False, True))
    for (one, plain), (other, fused) in zip(ours, grouped, strict=True):
        assert (one, other) == ("GroupedExperts", "TEGroupedMLP")
        assert plain.keys() == fused.keys()
        assert all(torch.equal(value, fused[name]) for name, value in plain.items())


@pytest.mark.parametrize("begun_grouped", [False, True], ids=["torch to grouped", "grouped to torch"])
def test_a_run_goes_on_in_the_other_backend(begun_grouped: bool, two_ranks: RankPool, tmp_path: Path) -> None:
    """Load the state of its optimizer under another layout too."""
    train = replace(RUN.train, steps=5, checkpoint_interval=3)
    run = replace(RUN, model=SHARED, train=train, wrap=MegatronDDP(), parallelism=LAYOUTS["expert 2"])
    unbroken = two_ranks.run(curve, run, begun_grouped, tmp_path)[0]
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000005")
    other = replace(run, parallelism=LAYOUTS["expert tensor 2 of data 2"])
    resumed = two_ranks.run(curve, other, not begun_grouped, None, tmp_path)[0]
    assert resumed == pytest.approx(unbroken[6:], abs=1e-4)


def bf16_logits(backend: str) -> tuple[str, Tensor]:
    """The class of the experts, and logits [b, s, v] in bfloat16."""
    from modelwright.builders import builder_for
    from modelwright.distributed import initialize, unwrapped

    groups = initialize(Parallelism())
    precision = Precision(params="bfloat16")
    stages = builder_for(SHARED, backend=backend).build_for_inference(
        groups, parallelism=Parallelism(), precision=precision
    )
    model: Any = unwrapped(stages[0])
    return type(model.decoder.layers[1].mlp.experts).__name__, answered(stages[0]).float()


@pytest.mark.gpu
def test_logits_of_experts_are_those_of_the_torch_backend(two_ranks: RankPool) -> None:
    if missing := missing_here():
        pytest.skip(" and ".join(missing))
    _, expected = two_ranks.run(bf16_logits, "torch", ranks=1)[0]
    name, found = two_ranks.run(bf16_logits, "te", ranks=1)[0]
    assert name == "TEGroupedMLP"
    torch.testing.assert_close(found, expected, rtol=2e-2, atol=2e-2)
