"""`record`: one rank of a verification builds the model on a layout, trains a few steps and records them."""

import importlib
import logging
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final, override

import numpy as np
import torch
from megatron.core.transformer.moe.moe_logging import get_moe_metrics_tracker
from torch import Tensor, nn

from modelwright.builders import BuildContext, Hook
from modelwright.config import RunConfig
from modelwright.distributed import (
    Box,
    BuildError,
    StageLayout,
    engine_config,
    initialize,
    local_range,
    local_tensor,
    unwrapped,
)
from modelwright.layers import RoutingRecorder
from modelwright.protocols import ModelwrightError
from modelwright.training import Trainer, language_shape, optimized_parameters, prepare_text
from modelwright.verify.on_ranks.build_options import apply_option, to_float64
from modelwright.verify.on_ranks.layer_outputs import OutputRecorder, as_array, global_names
from modelwright.verify.on_ranks.records import Array, Piece, RankRecording, Refusal, StepRecording
from modelwright.verify.subject import Subject

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection


@final
@dataclass(frozen=True, kw_only=True)
class Job:
    """Input of every rank of a layout."""

    subject: Subject
    """The model."""
    run: RunConfig
    """The run on the layout."""
    initial: dict[str, Array] | None
    """Unsharded initial values of all parameters and buffers, by key. None: keep those of the builder."""
    build: str | None = None
    """Another way to build the same model. None: as the run."""
    float64: bool = False
    """Compute in float64."""
    numbers_only: bool = False
    """Record losses and gradient norms, and no tensors."""


def record(job: Job) -> RankRecording | Refusal:
    """Train as one rank and record every step. The processes of the pool call this function.

    Args:
        job: Input of the rank.

    Returns:
        The recording, or the reason why the layout is refused.
    """
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in job.subject.modules:
            importlib.import_module(module)
        return _record(job)


def losses_and_norms(run: RunConfig) -> list[tuple[float, float]]:
    """Train as one rank, on the layout of the run, as `verify` does but without recording tensors.

    Args:
        run: The run.

    Returns:
        Loss and gradient norm of each step.

    Raises:
        ModelwrightError: The layout is refused.
    """
    answer = record(Job(subject=Subject(run=run), run=run, initial=None, numbers_only=True))
    if isinstance(answer, Refusal):
        raise ModelwrightError(answer.reason)
    return [(step.loss, step.grad_norm) for step in answer.steps]


def _record(job: Job) -> RankRecording | Refusal:
    run = job.run
    start = _InitialValues(job.initial, float64=job.float64)
    hook = Hook(name="initial values of one rank", phase="before_wrap", function=start)
    try:
        builder = job.subject.builder_of(run, [] if job.numbers_only else [hook])
        if job.build is not None:
            apply_option(builder, job.build)
        groups = initialize(run.parallelism, seed=run.train.seed)
        run = run.with_data_size(groups.dp.size())
        stages: list[nn.Module] = builder.build_distributed_models(
            groups, parallelism=run.parallelism, precision=run.precision, wrap=run.wrap, seed=run.train.seed
        )
    except ModelwrightError as error:
        return Refusal(str(error), is_consequence=isinstance(error, BuildError))
    except Exception as error:  # noqa: BLE001 - modules of a user and of the engine refuse a layout in many ways
        return Refusal(
            f"building it fails with `{type(error).__name__}`: {' '.join(str(error).split()) or 'no message'}"
        )
    recorder = _Recorder(run, stages, groups, numbers_only=job.numbers_only)
    steps = [recorder.step_recording(step) for step in range(1, run.train.steps + 1)]
    return RankRecording(
        coordinates={axis: group.rank() for axis, group in _axes(groups).items()},
        sizes={axis: group.size() for axis, group in _axes(groups).items()},
        initial=start.pieces,
        layout_bound=tuple(start.replaced),
        order=tuple(recorder.outputs.order) if recorder.outputs is not None else (),
        steps=steps,
    )


def _axes(groups: "ProcessGroupCollection") -> dict[str, Any]:
    return {
        "tensor": groups.tp,
        "pipeline": groups.pp,
        "context": groups.cp,
        "data": groups.dp,
        "expert": groups.ep,
        "expert_tensor": groups.expt_tp,
        "expert_data": groups.expt_dp,
    }


@final
class _InitialValues:
    """A hook that records the initial values, and replaces those that are not the ones of one rank."""

    def __init__(self, wanted: dict[str, Array] | None, *, float64: bool) -> None:
        self.wanted, self.float64 = wanted, float64
        self.pieces: list[Piece] = []
        self.replaced: list[str] = []

    @torch.no_grad()
    def __call__(self, stages: list[nn.Module], context: BuildContext) -> None:
        if self.float64:
            to_float64(stages)
        for stage in stages:
            layout = StageLayout(stage, context.pg_collection)
            pieces = list(_pieces(layout))
            self.pieces += [piece for piece, _ in pieces]
            for piece, local in pieces:
                self._replace(piece, local)

    def _replace(self, piece: Piece, local: Tensor) -> None:
        if self.wanted is None or piece.key not in self.wanted:
            return
        whole = self.wanted[piece.key]
        if whole.shape != piece.global_shape:
            raise ModelwrightError(
                f"`{piece.name}` must have the same unsharded shape on every layout, but has {piece.global_shape} "
                f"here and {whole.shape} on one rank; do not let it depend on the groups."
            )
        values = whole[piece.where]
        if not np.array_equal(values, piece.values, equal_nan=True):
            self.replaced.append(piece.name)
            local.copy_(torch.from_numpy(values.copy()))


def _pieces(layout: StageLayout) -> list[tuple[Piece, Tensor]]:
    """Return the pieces of the parameters and buffers of a stage, with the local tensors."""
    found: list[tuple[Piece, Tensor]] = []
    for parameter, name in _named(layout):
        boxes = layout.boxes_of(parameter, parameter, local_range(parameter))
        found += [(_piece(box, name), box.local) for box in boxes]
    seen = {(piece.key, piece.start) for piece, _ in found}
    buffers = [box for box in layout.boxes() if (box.key, box.start) not in seen]
    return found + [(_piece(box, box.key), box.local) for box in buffers]


def _named(layout: StageLayout) -> list[tuple[Tensor, str]]:
    """Return the parameters of a stage with their names in the whole model."""
    modules = global_names(layout.stage)
    found: list[tuple[Tensor, str]] = []
    for name, parameter in layout.parameters.values():
        module, _, last = name.rpartition(".")
        found.append((parameter, f"{modules[module]}.{last}".lstrip(".")))
    return found


def _piece(box: Box, name: str, scale: float = 1.0) -> Piece:
    values = as_array(box.local)
    return Piece(
        key=box.key,
        name=name,
        global_shape=box.global_shape,
        start=box.start,
        values=values if scale == 1.0 else values / scale,
    )


@final
class _Recorder(Trainer):
    """A trainer that records each step.

    Args:
        run: The run on a layout.
        stages: The wrapped stages of this rank.
        groups: The process groups of this rank.
        numbers_only: Record no tensors.
    """

    def __init__(
        self,
        run: RunConfig,
        stages: list[nn.Module],
        groups: "ProcessGroupCollection",
        *,
        numbers_only: bool,
    ) -> None:
        super().__init__(run, stages, groups, prepare_text(run))
        self.layouts: list[StageLayout] = []
        self.outputs: OutputRecorder | None = None
        if not numbers_only:
            self.layouts = [StageLayout(stage, groups) for stage in stages]
            self.outputs = OutputRecorder(
                stages,
                groups,
                seq_length=language_shape(run)[1],
                batch=run.train.global_batch,
                micro_batch=run.train.micro_batch,
            )
        has_experts = bool(getattr(engine_config(unwrapped(stages[0])), "num_moe_experts", None))
        self.routing = RoutingRecorder(stages) if has_experts and not numbers_only else None
        self.gradients: list[Piece] = []

    def step_recording(self, step: int) -> StepRecording:
        """Train one step and return its measurements.

        Args:
            step: Number of the step, from 1.
        """
        if self.routing is not None:
            get_moe_metrics_tracker().clear()
        done = self.step(step)
        routed = self.routing.read(self.groups) if self.routing is not None else ()
        return StepRecording(
            loss=done.loss,
            grad_norm=done.grad_norm,
            gradients=self.gradients,
            parameters=[piece for layout in self.layouts for piece, _ in _pieces(layout)],
            outputs=self.outputs.take() if self.outputs is not None else [],
            router_losses=_router_losses(self.groups, self._micro_batches()) if self.routing is not None else {},
            tokens_per_expert={layer.layer: layer.tokens_per_expert for layer in routed},
        )

    def _micro_batches(self) -> int:
        train = self.run.train
        return train.global_batch // train.micro_batch // self.groups.dp.size()

    @override
    def _update(self, loss: float) -> float | None:
        if self.outputs is not None:
            self.gradients = list(_gradients(self.layouts, self.optimizer))
        if self.run.train.clip_grad or not math.isfinite(loss):
            return super()._update(loss)
        # The engine's step returns the norm only if it clips.
        self.optimizer.prepare_grads()
        norm = float(self.optimizer.get_grad_norm())
        return None if super()._update(loss) is None else norm


def _gradients(layouts: Sequence[StageLayout], optimizer: Any) -> list[Piece]:
    """Return the gradients that the optimizer is about to use, each on the ranks that use it."""
    owner = {key: layout for layout in layouts for key in layout.parameters}
    names = {id(parameter): name for layout in layouts for parameter, name in _named(layout)}
    scale = float(optimizer.get_loss_scale())
    found: list[Piece] = []
    for optimized in optimized_parameters(optimizer):
        parameter: Any = optimized.parameter
        main: Tensor | None = getattr(parameter, "main_grad", None)
        gradient = parameter.grad if main is None else main
        if gradient is None:
            continue
        flat = local_tensor(gradient).reshape(-1)
        count, first = local_tensor(optimized.target).numel(), optimized.where.first
        if flat.numel() != count:  # the distributed optimizer reduces only the elements that it updates
            flat = flat[first : first + count]
        boxes = owner[id(parameter)].boxes_of(parameter, flat, optimized.where)
        found += [_piece(box, names[id(parameter)], scale) for box in boxes]
    return found


def _router_losses(groups: "ProcessGroupCollection", micro_batches: int) -> dict[str, tuple[float, ...]]:
    """Return the auxiliary losses of the routers of this stage, the means over micro-batches and data ranks."""
    tracker: Any = get_moe_metrics_tracker()
    entries: dict[str, Any] = tracker.metrics
    mine = {name: entry.values.clone() for name, entry in entries.items()}
    for name, entry in entries.items():
        averaged = [entry.avg_group, *([groups.dp] if entry.needs_dp_avg else [])]
        for group in (entry.reduce_group, *averaged):
            if group is not None:
                torch.distributed.all_reduce(mine[name], group=group)
        mine[name] /= micro_batches * math.prod(group.size() for group in averaged if group is not None)
    return {name: tuple(values.tolist()) for name, values in mine.items()}
