"""Joining and leaving a job of one rank, and what is said when groups and parallelism do not fit."""

import os

import pytest
import torch
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker

from modelwright.config import ConfigError, Parallelism
from modelwright.distributed import finalize, initialize, virtual_stages
from modelwright.engine import device_runtime
from tests.messages import facts

AXES = ("tp", "pp", "cp", "ep", "dp", "dp_cp")


def test_one_process_is_a_job_of_its_own(groups: ProcessGroupCollection) -> None:
    assert torch.distributed.get_world_size() == 1
    assert {axis: getattr(groups, axis).size() for axis in AXES} == dict.fromkeys(AXES, 1)


def test_the_groups_of_the_engine_are_the_same(groups: ProcessGroupCollection) -> None:
    assert parallel_state.get_tensor_model_parallel_group() is groups.tp
    assert parallel_state.get_pipeline_model_parallel_group() is groups.pp


def test_leaving_ends_both_and_can_be_repeated(groups: ProcessGroupCollection) -> None:
    for _ in range(2):
        finalize()
        assert not torch.distributed.is_initialized()
        assert not parallel_state.model_parallel_is_initialized()


def test_a_job_can_be_joined_again(groups: ProcessGroupCollection) -> None:
    for _ in range(2):
        again = initialize(Parallelism())
        assert {axis: getattr(again, axis).size() for axis in AXES} == dict.fromkeys(AXES, 1)
        finalize()


def test_random_states_follow_the_seed(groups: ProcessGroupCollection) -> None:
    drawn = []
    for seed in (1, 2, 1):
        initialize(Parallelism(), seed=seed)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


def test_processes_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with device_runtime(), pytest.raises(ConfigError) as caught:
        initialize(Parallelism(tensor=2))
    assert facts(caught.value) == "`tensor` 2 `pipeline` 1 `context` 1 2 3 2"
    assert not torch.distributed.is_initialized()


def test_an_existing_job_counts_before_the_environment(
    groups: ProcessGroupCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"\b1 were\b"):
        initialize(Parallelism(tensor=2))


def test_virtual_stages_as_the_engine_counts_them() -> None:
    assert virtual_stages(Parallelism()) is None
    assert virtual_stages(Parallelism(pipeline=2, virtual_pipeline=3)) == 3


def test_leaving_gives_the_engine_its_own_tracker_of_router_losses_back(groups: ProcessGroupCollection) -> None:
    """The patch lasts from joining a job to leaving it."""
    inside = type(get_moe_metrics_tracker()).__name__
    finalize()
    assert (inside, type(get_moe_metrics_tracker()).__name__) == ("GrowingTracker", "MoEMetricsTracker")


def test_leaving_restores_the_attention_that_the_engine_stores_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next model of the process may choose another one."""
    monkeypatch.setenv("NVTE_FLASH_ATTN", "1")
    monkeypatch.delenv("NVTE_FUSED_ATTN", raising=False)
    with device_runtime():
        initialize(Parallelism())
        os.environ.update(NVTE_FLASH_ATTN="0", NVTE_FUSED_ATTN="1")
        finalize()
    assert (os.environ["NVTE_FLASH_ATTN"], os.environ.get("NVTE_FUSED_ATTN")) == ("1", None)
