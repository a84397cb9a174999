"""Functions that run in the processes of `te_ranks.py`, where Transformer Engine is the stand-in."""

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from modelwright.config import RunConfig
from modelwright.distributed import finalize
from modelwright.protocols import ModelwrightWarning
from tests.integration.footprint import Footprint, footprint


class Seen(NamedTuple):
    """One step of training with parts of Transformer Engine, as one rank computes it."""

    footprint: Footprint
    """Values, shapes, kernels and communication."""
    calls: tuple[str, ...]
    """What was asked of Transformer Engine: constructions, calls and contexts, in order."""

    def differs_in(self, other: "Seen") -> set[str]:
        """Return what differs. A call of Transformer Engine is a kernel."""
        found = self.footprint.differs_in(other.footprint)
        return found | {"kernels"} if self.calls != other.calls else found


_warm: list[bool] = []


def both_seen(run: RunConfig, other: RunConfig, checked: bool = True) -> tuple[Seen, Seen]:
    """Train each run, without the refusal of silent fields if it is not `checked`."""
    from modelwright.layers.stack import resolution

    if not _warm:
        footprint(run)  # the first fills caches of the process
        _warm.append(True)
    check = resolution.fields_without_effect if checked else lambda *args: iter(())
    with patch.object(resolution, "fields_without_effect", check):
        return seen(run), seen(other)


def seen(run: RunConfig) -> Seen:
    """Train a step."""
    from transformer_engine.recorded import EVENTS

    EVENTS.clear()
    with offloading_recorded():
        found = footprint(run)
    return Seen(found, tuple(EVENTS))


@contextmanager
def offloading_recorded() -> Iterator[None]:
    """Record what is moved to the memory of the CPU, and for which of these moves the computation waits.

    The engine moves nothing that is in that memory already, which here is everything. So every tensor that is no
    parameter counts as one on a device.
    """
    from megatron.core.pipeline_parallel.fine_grained_activation_offload import ChunkOffloadHandler
    from torch import Tensor, nn
    from transformer_engine.recorded import record

    from modelwright.engine.cpu.cuda_calls import CpuStream

    handler: Any = ChunkOffloadHandler
    offload, reload = handler.offload, handler.reload

    def offloaded(self: Any, tensor: Tensor, *args: Any, **options: Any) -> Any:
        record("offload", tensor=tensor)
        return offload(self, tensor, *args, **options)

    def reloaded(self: Any, state: Any, *args: Any, **options: Any) -> Any:
        record("reload", tensor=state[1])
        return reload(self, state, *args, **options)

    with (
        patch.object(handler, "offload", offloaded),
        patch.object(handler, "reload", reloaded),
        patch.object(handler, "_can_manage_tensor_for_offload", lambda self, it: not isinstance(it, nn.Parameter)),
        patch.object(CpuStream, "wait_event", lambda self, event: record("wait")),
        patch.object(Tensor, "record_stream", lambda self, stream: None),
    ):
        yield


def unchecked_values(run: RunConfig) -> list[float]:
    """Loss and gradient norm of the first step, with fields of `engine:` that are refused."""
    from modelwright.layers.stack import resolution

    with patch.object(resolution, "fields_without_effect", lambda *args: iter(())):
        return [value for step in curve(run) for value in step]


def curve(run: RunConfig, folder: Path | None = None, resume: Path | None = None) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step."""
    from modelwright.training import train

    return [(record.loss, record.grad_norm) for record in train(run, out=folder, resume=resume)]


def saved_and_resumed(run: RunConfig, folder: Path) -> tuple[list[str], bool]:
    """Return the warnings of a run that saves, and whether its resumption repeats its last two steps."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ModelwrightWarning)
        unbroken = curve(run, folder)
    finalize()
    shutil.rmtree(folder / "checkpoints" / f"step-{run.train.steps:08d}")
    resumed = curve(run, None, folder)
    assert len(resumed) == 2
    return [str(one.message) for one in caught if one.category is ModelwrightWarning], resumed == unbroken[-2:]
