"""Wrap strategies on one rank, and the counts of its parameters."""

from collections.abc import Sequence

import pytest
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.module import Float16Module
from torch import nn
from torch.distributed.tensor import DTensor

from modelwright.config import MegatronDDP, MegatronFSDP, NoWrap, TorchFSDP2
from modelwright.distributed import WrapError, total_bytes, total_parameters, unwrapped, wrap_stages
from packages.distributed.tests.tiny import TinyStage, engine_config
from tests.messages import facts


class MyWrap:
    """A custom strategy."""


@wrap_stages.register
def _(strategy: MyWrap, stages: Sequence[nn.Module], pg_collection: ProcessGroupCollection) -> list[nn.Module]:
    return [nn.Sequential(stage) for stage in stages]


def test_no_wrap_leaves_the_stages(groups: ProcessGroupCollection) -> None:
    stages = [TinyStage(groups), TinyStage(groups)]
    assert wrap_stages(NoWrap(), stages, groups) == stages


def test_ddp_collects_gradients(groups: ProcessGroupCollection) -> None:
    stage = TinyStage(groups)
    (wrapped,) = wrap_stages(MegatronDDP(), [stage], groups)
    assert type(wrapped) is DistributedDataParallel
    assert wrapped.module is stage
    wrapped.zero_grad_buffer()
    wrapped(torch.ones(1, 1, 8)).sum().backward()
    wrapped.finish_grad_sync()
    assert stage.scale.main_grad.dtype == torch.float32
    expected = stage.linear(torch.ones(1, 1, 8))[0].flatten()
    assert torch.allclose(stage.scale.main_grad, expected)


def test_the_fields_reach_the_engine(groups: ProcessGroupCollection) -> None:
    strategy = MegatronDDP(
        overlap_grad_reduce=True,
        bucket_size=1000,
        average_in_collective=True,
        grad_reduce_in_fp32=False,
        check_for_nan=True,
    )
    first, second = wrap_stages(strategy, [TinyStage(groups), TinyStage(groups)], groups)
    for wrapped in (first, second):
        config = wrapped.ddp_config
        assert config.overlap_grad_reduce
        assert config.average_in_collective
        assert config.check_for_nan_in_grad
        assert not config.grad_reduce_in_fp32
    assert first.ddp_config is not second.ddp_config
    assert (first.bucket_size, second.bucket_size) == (1000, None)  # later chunks are one bucket
    assert strategy == MegatronDDP(
        overlap_grad_reduce=True,
        bucket_size=1000,
        average_in_collective=True,
        grad_reduce_in_fp32=False,
        check_for_nan=True,
    )


@pytest.mark.parametrize(("overlap", "bucket_size"), [(False, None), (True, 40_000_000)])
def test_the_bucket_size_of_the_engine(groups: ProcessGroupCollection, overlap: bool, bucket_size: int | None) -> None:
    (wrapped,) = wrap_stages(MegatronDDP(overlap_grad_reduce=overlap), [TinyStage(groups)], groups)
    assert wrapped.bucket_size == bucket_size


def test_the_config_of_the_stage_is_not_changed(groups: ProcessGroupCollection) -> None:
    config = engine_config()
    before = dict(vars(config))
    wrap_stages(MegatronDDP(), [TinyStage(groups, config)], groups)
    assert vars(config) == before


def test_a_strategy_of_ones_own(groups: ProcessGroupCollection) -> None:
    stage = TinyStage(groups)
    (wrapped,) = wrap_stages(MyWrap(), [stage], groups)
    assert isinstance(wrapped, nn.Sequential)
    assert wrapped[0] is stage


def test_an_unknown_strategy(groups: ProcessGroupCollection) -> None:
    with pytest.raises(WrapError) as caught:
        wrap_stages("fsdp", [TinyStage(groups)], groups)
    assert facts(caught.value) == "`wrap` `wrap_stages.register`"


def test_megatron_fsdp_says_what_it_needs(groups: ProcessGroupCollection) -> None:
    """It is the engine's wrapper with a GPU and einops, and neither is here."""
    with pytest.raises(WrapError) as caught:
        wrap_stages(MegatronFSDP(), [TinyStage(groups)], groups)
    assert facts(caught.value) == "`wrap.kind: megatron_fsdp` `fsdp2`"


def test_fsdp2_shards_over_the_given_group_and_keeps_what_the_engine_reads(groups: ProcessGroupCollection) -> None:
    stage = TinyStage(groups)
    before = {name: dict(vars(p)) for name, p in stage.named_parameters()}
    (wrapped,) = wrap_stages(TorchFSDP2(), [stage], groups)
    assert unwrapped(wrapped) is stage
    for name, parameter in stage.named_parameters():
        assert isinstance(parameter, DTensor), name
        assert parameter.device_mesh.get_group() is groups.dp_cp
        assert before[name].items() <= vars(parameter).items()


def test_a_stage_without_the_config_of_the_engine(groups: ProcessGroupCollection) -> None:
    with pytest.raises(WrapError) as caught:
        wrap_stages(MegatronDDP(), [nn.Linear(2, 2)], groups)
    assert facts(caught.value) == "`config` `build_model` `wrap: {kind: none}`"


def test_unwrapped(groups: ProcessGroupCollection) -> None:
    stage = TinyStage(groups, engine_config(bf16=True))
    (wrapped,) = wrap_stages(MegatronDDP(), [Float16Module(stage.config, stage)], groups)
    assert unwrapped(wrapped) is stage
    assert unwrapped(stage) is stage


def test_counts_take_a_tied_weight_once() -> None:
    embedding, output = nn.Embedding(10, 4), nn.Linear(4, 10)
    assert total_parameters([embedding, output]) == 40 + 40 + 10
    output.weight = embedding.weight
    assert total_parameters([nn.Sequential(embedding, output)]) == 40 + 10
    assert total_parameters([embedding, output]) == 40 + 10
    assert total_bytes([embedding, output]) == 4 * 50
    assert total_bytes([embedding.bfloat16()]) == 2 * 40
