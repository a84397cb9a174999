"""With dropout and router jitter, a seed gives one loss curve: on every layout, resumed and with recomputation."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.config import MegatronDDP, Parallelism, Precision, RunConfig, TorchFSDP2, Wrap, replace
from modelwright.gpt import GPTModelConfig
from modelwright.mamba import MambaModelConfig
from modelwright.moe import LatentAttention
from modelwright.testing import RankPool, assert_layout_parity, reference_curve
from tests.integration import tiny_runs
from tests.integration.jobs import quiet
from tests.integration.tiny_runs import TRAIN

DROPOUT: dict[str, Any] = {"attention_dropout": 0.3, "hidden_dropout": 0.2}
MLA = LatentAttention(query_rank=16, key_value_rank=16, head_dim=8, rotary_head_dim=8, value_head_dim=8)
GPT = replace(tiny_runs.GPT, model=replace(tiny_runs.GPT.model, **DROPOUT))
JITTER = {"moe_input_jitter_eps": 0.2}
MOE = replace(tiny_runs.MOE, model=replace(tiny_runs.MOE.model, **DROPOUT, latent_attention=MLA, engine=JITTER))
HYBRID = RunConfig(
    name="hybrid",
    model=MambaModelConfig(
        pattern="M*M-",
        hidden_size=32,
        num_attention_heads=4,
        mamba_head_dim=16,
        mamba_num_groups=2,
        mamba_state_dim=16,
        vocab_size=256,
        seq_length=32,
        **DROPOUT,
    ),
    train=TRAIN,
)
RUNS = {"gpt": GPT, "moe": MOE, "hybrid": HYBRID}
LAYOUTS: list[tuple[str, str, Parallelism, Wrap]] = [
    ("gpt", "tensor", Parallelism(tensor=2), MegatronDDP()),
    ("gpt", "sequence", Parallelism(tensor=2, sequence=True), MegatronDDP()),
    ("gpt", "pipeline", Parallelism(pipeline=2), MegatronDDP()),
    ("gpt", "virtual", Parallelism(pipeline=2, virtual_pipeline=2), MegatronDDP()),
    ("gpt", "context", Parallelism(context=2), MegatronDDP()),
    ("gpt", "data", Parallelism(), MegatronDDP(distributed_optimizer=True)),
    ("gpt", "fsdp2", Parallelism(), TorchFSDP2()),
    ("moe", "expert", Parallelism(expert=2), MegatronDDP()),
    ("moe", "sequence", Parallelism(tensor=2, sequence=True), MegatronDDP()),
    ("hybrid", "tensor", Parallelism(tensor=2, sequence=True), MegatronDDP()),
    ("hybrid", "context", Parallelism(context=2), MegatronDDP()),
]


@pytest.fixture(scope="module")
def references(two_ranks: RankPool) -> dict[str, Any]:
    """The curve of each run on one rank."""
    return {name: reference_curve(two_ranks, run) for name, run in RUNS.items()}


@pytest.mark.parametrize(("name", "layout", "parallelism", "wrap"), LAYOUTS, ids=[f"{it[0]}-{it[1]}" for it in LAYOUTS])
def test_one_curve_on_every_layout(
    two_ranks: RankPool, references: dict[str, Any], name: str, layout: str, parallelism: Parallelism, wrap: Wrap
):
    assert_layout_parity(two_ranks, RUNS[name], parallelism, wrap=wrap, reference=references[name])


def test_the_size_of_the_micro_batch_and_recomputation_change_nothing(two_ranks: RankPool, references: dict[str, Any]):
    recomputed = replace(
        GPT,
        model=replace(
            GPT.model,
            engine={"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
        ),
    )
    for run in (replace(GPT, train=replace(TRAIN, micro_batch=8)), recomputed):
        for found, expected in zip(reference_curve(two_ranks, run), references["gpt"], strict=True):
            assert found.loss == pytest.approx(expected.loss, abs=1e-5)
            assert found.grad_norm == pytest.approx(expected.grad_norm, abs=1e-4)


def whole_and_resumed(run: RunConfig, folder: Path) -> tuple[list[float], list[float]]:
    """The losses of an unbroken run, and those of its second half after a resume in the middle."""
    quiet()
    from modelwright.distributed import finalize
    from modelwright.training import checkpoint_path, train

    whole = [record.loss for record in train(run, out=folder)]
    torch.distributed.barrier()
    if torch.distributed.get_rank() == 0:
        shutil.rmtree(checkpoint_path(folder, run.train.steps))
    torch.distributed.barrier()
    finalize()
    return whole, [record.loss for record in train(run, resume=folder)]


def test_a_resumed_run_drops_what_the_unbroken_one_drops(two_ranks: RankPool, tmp_path: Path):
    run = replace(GPT, parallelism=Parallelism(tensor=2), train=replace(TRAIN, steps=4, checkpoint_interval=2))
    for whole, resumed in two_ranks.run(whole_and_resumed, run, tmp_path / "run"):
        assert resumed == whole[2:]


def test_dropout_has_an_effect(two_ranks: RankPool, references: dict[str, Any]):
    for field in ("attention_dropout", "hidden_dropout"):
        run = replace(GPT, model=replace(GPT.model, **{field: 0.0}))
        assert abs(reference_curve(two_ranks, run)[0].loss - references["gpt"][0].loss) > 1e-4


def attention_weights(parallelism: Parallelism) -> torch.Tensor:
    """Which weights the heads of this rank keep, [b, n, s, s]: values that are one-hot show the weights."""
    quiet()
    from megatron.core.transformer.enums import AttnMaskType

    from modelwright.distributed import initialize
    from modelwright.layers import SdpaCoreAttention, resolve

    groups = initialize(parallelism)
    config = GPTModelConfig(
        num_layers=1, hidden_size=64, num_attention_heads=4, vocab_size=256, seq_length=16, attention_dropout=0.5
    )
    part = SdpaCoreAttention(
        config=resolve(config, parallelism, Precision()),
        layer_number=1,
        attn_mask_type=AttnMaskType.causal,
        attention_type="self",
        pg_collection=groups,
    )
    heads = 4 // parallelism.tensor
    query = torch.zeros(16, 2, heads, 16)
    value = torch.eye(16)[:, None, None].expand(16, 2, heads, 16)
    torch.manual_seed(7)
    return part.train()(query, query, value, None).view(16, 2, heads, 16).permute(1, 2, 0, 3) != 0


def test_tensor_ranks_drop_different_positions(two_ranks: RankPool):
    """Megatron-LM 1256: heads of two ranks agree by chance alone, and equal those of one rank."""
    first, second = two_ranks.run(attention_weights, Parallelism(tensor=2))
    whole = two_ranks.run(attention_weights, Parallelism(), ranks=1)[0]
    assert torch.equal(torch.cat([first, second], dim=1), whole)
    seen = torch.ones(16, 16, dtype=torch.bool).tril()
    agreement = (first == second)[..., seen].double().mean().item()
    assert agreement == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(2 * 2 * 136))
