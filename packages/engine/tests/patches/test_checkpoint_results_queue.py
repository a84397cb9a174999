"""A save starts no manager process, and the engine gets its own queue back."""

import queue
from importlib import import_module
from typing import Any

from modelwright.engine import results_in_this_process

ENGINE: Any = import_module("megatron.core.dist_checkpointing.strategies.filesystem_async")


def test_the_queue_of_this_process_is_used_and_taken_away() -> None:
    before = ENGINE._results_queue
    with results_in_this_process():
        assert isinstance(ENGINE.get_write_results_queue(), queue.Queue)
    assert ENGINE._results_queue is before


def test_the_engine_still_starts_a_manager() -> None:
    """The reason for the patch: without it, the queue of a save lives in another process."""
    before = ENGINE._results_queue
    ENGINE._results_queue = None
    try:
        answer = ENGINE.get_write_results_queue()
        assert not isinstance(answer, queue.Queue)
        assert "managers" in type(answer).__module__
        answer._manager.shutdown()
    finally:
        ENGINE._results_queue = before
