"""The job that this process belongs to, and a store that no other machine reaches."""

import os
import socket

import pytest
import torch

from modelwright.engine import LocalStore, is_launched, job_size, on_one_machine, only_loopback, restore_interfaces

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "launched", "size", "here"),
    [
        ({}, False, 1, True),
        ({"WORLD_SIZE": "8"}, False, 1, True),
        ({"RANK": "3", "WORLD_SIZE": "8"}, True, 8, False),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}, True, 8, True),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, True, 8, False),
    ],
)
def test_the_job_of_this_process(
    given: dict[str, str], launched: bool, size: int, here: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (is_launched(), job_size(), on_one_machine()) == (launched, size, here)


def test_the_interfaces_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    for _ in range(2):
        only_loopback()
        assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"]
        assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
    restore_interfaces()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
    assert "NCCL_SOCKET_IFNAME" not in os.environ


def test_the_store_serves_on_the_loopback_address_alone() -> None:
    with LocalStore() as store:
        client = torch.distributed.TCPStore("127.0.0.1", store.port, is_master=False)
        client.set("key", "value")
        assert client.get("key") == b"value"
        with socket.socket() as other, pytest.raises(ConnectionRefusedError):
            other.connect(("127.0.0.2", store.port))  # another address of this machine
