"""Inside `gathering_over`, the engine's comparison of optimizers asks the ranks of one model."""

import inspect
from typing import Any

import pytest
import torch
from megatron.core import optimizer

from modelwright.engine import gathering_over


class TwoRanks:
    """Stand-in for a group of two ranks, of which only the size is read."""

    def size(self) -> int:
        return 2


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The groups that reach torch's functions, in a job of four ranks."""
    asked: list[Any] = []

    def get_world_size(group: Any = None) -> int:
        asked.append(group)
        return 4 if group is None else group.size()

    def all_gather_object(found: list[Any], given: object, group: Any = None) -> None:
        asked.append(group)

    monkeypatch.setattr(torch.distributed, "get_world_size", get_world_size)
    monkeypatch.setattr(torch.distributed, "all_gather_object", all_gather_object)
    return asked


def test_calls_without_a_group_mean_the_ranks_of_the_model(calls: list[Any]) -> None:
    ranks: Any = TwoRanks()
    before = torch.distributed.get_world_size
    with gathering_over(ranks):
        assert torch.distributed.get_world_size() == 2
        torch.distributed.all_gather_object([None, None], "groups")
    assert calls[1:] == [ranks, ranks]
    assert torch.distributed.get_world_size is before


def test_nothing_changes_without_ranks(calls: list[Any]) -> None:
    before = torch.distributed.get_world_size
    with gathering_over(None):
        assert torch.distributed.get_world_size is before


def test_the_engine_still_asks_the_whole_job() -> None:
    """The reason for the patch; when the engine passes a group of its own, this fails and the patch can go."""
    assert "torch.distributed.all_gather_object(gathered_params_key, params_key)" in inspect.getsource(optimizer)
