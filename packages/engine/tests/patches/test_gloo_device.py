"""Gloo groups share one device, and get devices of their own again."""

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.distributed_c10d as c10d

from modelwright.engine import only_loopback, restore_gloo_devices, restore_interfaces, share_gloo_device

MODULE: Any = c10d
TIMEOUT = datetime.timedelta(seconds=60)


@pytest.fixture
def clean() -> Iterator[None]:
    """Torch as it is, before and after."""
    assert not dist.is_initialized()
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    restore_gloo_devices()
    restore_interfaces()


def threads() -> int:
    """The number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


def threads_of_groups(count: int) -> int:
    """The threads that this many groups of one rank add to the process."""
    store: Any = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=0, world_size=1, timeout=TIMEOUT)
    before = threads()
    groups = [dist.new_group([0], timeout=TIMEOUT) for _ in range(count)]
    after = threads()
    assert all(dist.get_world_size(group) == 1 for group in groups)
    return after - before


def test_torch_still_makes_a_device_for_each_group(clean: None):
    """The reason for the patch: two worker threads a group, and one of its device."""
    assert threads_of_groups(8) == 3 * 8


def test_groups_share_one_device(clean: None):
    only_loopback()
    share_gloo_device()
    share_gloo_device()  # a second call changes nothing
    assert threads_of_groups(8) == 2 * 8


def test_the_group_keeps_its_timeout_and_its_class(clean: None):
    share_gloo_device()
    threads_of_groups(1)
    group: Any = dist.new_group([0], timeout=datetime.timedelta(seconds=7))
    backend = group._get_backend(torch.device("cpu"))
    assert isinstance(backend, dist.ProcessGroupGloo)  # type: ignore[attr-defined]
    assert backend.options._timeout == datetime.timedelta(seconds=7)


def test_torch_gets_its_class_back(clean: None):
    before = MODULE.ProcessGroupGloo
    share_gloo_device()
    assert MODULE.ProcessGroupGloo is not before
    restore_gloo_devices()
    assert MODULE.ProcessGroupGloo is before
