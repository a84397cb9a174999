"""Let the threads that write a checkpoint report through a queue of this process.

- **Changes**: `megatron.core.dist_checkpointing.strategies.filesystem_async._results_queue` is a plain queue.
- **Why**: by default the engine starts a manager process for that queue. That takes seconds and needs a main
  module that can be imported safely. The process outlives a killed rank and keeps the rank's terminal open.
- **Versions**: megatron-core 0.19.
- **Undone**: at the end of the block.
- **Entered**: by `modelwright.training.save_checkpoint`, on every rank.
- **Threads**: the queue is process-wide, as in the engine, so a process can run one save at a time.
- **Test that fails when it is no longer needed**: `tests/patches/test_checkpoint_results_queue.py`.
"""

import contextlib
import queue
from collections.abc import Generator
from importlib import import_module
from typing import Any


@contextlib.contextmanager
def results_in_this_process() -> Generator[None]:
    """Keep the engine from starting a manager process until the end of the block."""
    module: Any = import_module("megatron.core.dist_checkpointing.strategies.filesystem_async")
    before = module._results_queue
    module._results_queue = queue.Queue()
    try:
        yield
    finally:
        module._results_queue = before
