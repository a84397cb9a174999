"""`verify`: trains a model on every layout in one pool of processes, and compares each with one rank."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, final

from modelwright.config import ConfigError, ConstantSchedule, MegatronDDP, Parallelism, RunConfig, replace
from modelwright.distributed import RankError, RankPool
from modelwright.protocols import ModelwrightError
from modelwright.verify.by_definition import local_option
from modelwright.verify.comparison import TOLERANCES, Reference, Tolerance, compare
from modelwright.verify.layout_choice import Layout, chosen, layouts_of
from modelwright.verify.layout_results import LayoutResult, Verdict
from modelwright.verify.on_ranks.rank_job import Job, record
from modelwright.verify.on_ranks.records import RankRecording, Refusal
from modelwright.verify.shrinking import shrunk
from modelwright.verify.subject import Subject, subject_of

if TYPE_CHECKING:
    from modelwright.layers import StackSpec

type Progress = Callable[[LayoutResult, int, int], None]
"""Function that receives each result, the number of results so far, and the number of all layouts."""

_ADAM_EPS: Final = 1e-3
_ONLY_FLOAT32: Final = (
    "the engine's distributed optimizer and `fsdp2` compute in float32 alone; verify it without float64."
)


class VerifyError(ModelwrightError):
    """A model that cannot be verified: it does not train on one rank, has no fixed result there, or no legal layout."""


def verify(
    subject: object,
    *,
    layouts: Literal["all"] | Sequence[str] = "all",
    ranks: int = 2,
    steps: int = 2,
    tolerance: float | None = None,
    float64: bool = False,
    shrink: bool = True,
    spec: "StackSpec | None" = None,
    builder: Any = None,
    modules: Sequence[str] = (),
    pool: RankPool | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Compare a model on every layout with the same model on one rank.

    Args:
        subject: A `RunConfig`, or a `MegatronModel`.
        layouts: `all`, or names of layouts, which may be shell patterns.
        ranks: Largest number of ranks of a layout.
        steps: Number of steps to train.
        tolerance: Largest difference that counts as rounding, relative to the largest value of a tensor. None: by the
            dtype.
        float64: Compute in float64, with a smaller tolerance, so that rounding is no explanation.
        shrink: Verify a small model with the same kinds of layers, options and divisibility.
        spec: Parts to build the model of a run from. None: those that the run selects.
        builder: Builder of the model of a run. None: the registered one.
        modules: Modules that register parts, for the processes of the ranks.
        pool: Processes to use, at least `ranks`. None: new ones.
        progress: Receives each result. None: nothing is reported.

    Returns:
        The verdict.

    Raises:
        VerifyError: The model does not train on one rank, its values there are not finite, two runs differ, or every
            layout is refused.
        ModelwrightError: The subject or the name of a layout is wrong.
    """
    found = subject_of(subject, spec=spec, builder=builder)
    found = dataclasses.replace(found, modules=tuple(modules))
    given = found.run
    found, changes = prepared(found, steps=steps, clip=not float64)
    if shrink:
        small, said = shrunk(found.run, ranks)
        found, changes = dataclasses.replace(found, run=small), [*said, *changes]
    names = [layouts] if isinstance(layouts, str) else list(layouts)
    selected = chosen(layouts_of(found.run, ranks), names)
    with contextlib.nullcontext(pool) if pool is not None else RankPool(ranks) as processes:
        return _Verification(found, given, processes, tolerance, float64=float64).verdict(selected, changes, progress)


def prepared(subject: Subject, *, steps: int, clip: bool = True) -> tuple[Subject, list[str]]:
    """Return a subject on one rank that is sensitive to errors, and the changes in words.

    Adam divides a gradient by its own size, which hides a wrong factor and makes rounding of a gradient near 0 large.
    With a larger `adam_eps` an update grows with its gradient.

    Args:
        subject: The subject.
        steps: Number of steps to train.
        clip: Clip gradients as the run does. The engine does so in float32 alone.
    """
    train = replace(
        subject.run.train, steps=steps, adam_eps=_ADAM_EPS, lr_schedule=ConstantSchedule(), eval_interval=None
    )
    train = train if clip else replace(train, clip_grad=0.0)
    run = replace(subject.run, parallelism=Parallelism(), wrap=MegatronDDP(), train=train)
    changes = [f"{steps} steps at a constant learning rate of {train.lr:g}", f"`train.adam_eps` {_ADAM_EPS:g}"]
    return dataclasses.replace(subject, run=run), changes


@final
class _Verification:
    """One subject in one pool.

    Args:
        subject: The subject on one rank.
        given: The run as it was given, which decides which layouts are legal.
        pool: The processes.
        tolerance: Largest difference that counts as rounding. None: by the dtype.
        float64: Compute in float64.
    """

    def __init__(
        self, subject: Subject, given: RunConfig, pool: RankPool, tolerance: float | None, *, float64: bool
    ) -> None:
        self.subject, self.given, self.pool, self.float64 = subject, given, pool, float64
        self.dtype = "float64" if float64 else subject.run.precision.params
        self._references: list[tuple[RunConfig, Reference]] = []
        default = TOLERANCES[self.dtype]
        self.tolerance = (
            default if tolerance is None else Tolerance(value=tolerance, norm=tolerance, update=20 * tolerance)
        )

    def verdict(self, layouts: Sequence[Layout], changes: Sequence[str], progress: Progress | None) -> Verdict:
        """Verify every layout and return the verdict.

        Args:
            layouts: The layouts.
            changes: Changes of the run, in words.
            progress: Receives each result.
        """
        run = self.subject.run
        reference = self.reference(run)
        results: list[LayoutResult] = []
        for layout in layouts:
            start = time.perf_counter()
            result = self._result(layout, run)
            results.append(result.model_copy(update={"seconds": time.perf_counter() - start}))
            if progress is not None:
                progress(results[-1], len(results), len(layouts))
        if all(result.outcome == "refused" for result in results):
            raise VerifyError(
                f"at least one layout must be legal for the model, but all are refused, `{results[0].name}` because "
                f"{results[0].reason} Choose others with `layouts`, or allow more `ranks`."
            )
        return Verdict(
            subject=run.name or run.model.kind,
            dtype=self.dtype,
            tolerance=self.tolerance.value,
            update_tolerance=self.tolerance.update,
            changes=tuple(changes),
            losses=tuple(step.loss for step in reference.recording.steps),
            grad_norms=tuple(step.grad_norm for step in reference.recording.steps),
            layouts=tuple(results),
        )

    def _record(
        self, run: RunConfig, initial: Any = None, *, build: str | None = None
    ) -> list[RankRecording | Refusal]:
        if self.float64 and isinstance(run.wrap, MegatronDDP):  # its buffers are in float32 by default
            run = replace(run, wrap=replace(run.wrap, grad_reduce_in_fp32=False))
        job = Job(subject=self.subject, run=run, initial=initial, build=build, float64=self.float64)
        return self.pool.run(record, job, ranks=run.parallelism.world_size())

    def reference(self, run: RunConfig) -> Reference:
        """Return the recording of a run on one rank, trained at the first call.

        Args:
            run: The run on one rank.
        """
        for known, reference in self._references:
            if known == run:
                return reference
        self._references.append((run, self._trained(run)))
        return self._references[-1][1]

    def _trained(self, run: RunConfig) -> Reference:
        """Train on one rank, twice, and require the same finite values."""
        try:
            answers = [self._record(run)[0] for _ in range(2)]
        except RankError as error:
            raise VerifyError(
                f"the model must train on one rank, but fails: {_last_line(error)}; fix that first."
            ) from error
        recordings: list[RankRecording] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                raise VerifyError(f"the model must be built on one rank, but is refused: {answer.reason}")
            recordings.append(answer)
        reference = Reference(recordings[0])
        if not all(step.is_finite() for step in reference.steps):
            raise VerifyError(
                "the loss and the gradients must be finite on one rank, but are not; lower `train.lr`, or look for a "
                "division by zero."
            )
        repeated = compare(reference, recordings[1:], Tolerance(value=0.0, norm=0.0, update=0.0))
        if repeated:
            raise VerifyError(
                f"two runs with the same seed must be equal on one rank, but {repeated[0].sentence()}; draw random "
                "numbers from torch's generators, which the seed of a run sets."
            )
        return reference

    def _result(self, layout: Layout, run: RunConfig) -> LayoutResult:
        """Return the result on a layout. An option that depends on the layout by definition is off."""
        option = local_option(run, layout)
        if option is None:
            return self._compared(layout, run)
        result = self._compared(layout, option.turned_off(run))
        if result.outcome != "equal":
            return result
        reason = f"`{option.name}`: {option.reason}; equal without it"
        return result.model_copy(update={"outcome": "differs by definition", "reason": reason})

    def _compared(self, layout: Layout, base: RunConfig) -> LayoutResult:
        try:
            replace(self.given, parallelism=Parallelism(**layout.parallelism), wrap=layout.wrap)
            run = layout.applied(base)
        except ConfigError as error:
            ranks = Parallelism(**layout.parallelism).world_size()
            return LayoutResult(name=layout.name, ranks=ranks, outcome="refused", reason=_one_line(error))
        ranks = run.parallelism.world_size()
        if self.float64 and (not isinstance(run.wrap, MegatronDDP) or run.wrap.distributed_optimizer):
            return LayoutResult(name=layout.name, ranks=ranks, outcome="refused", reason=_ONLY_FLOAT32)
        reference = self.reference(base)
        try:
            answers = self._record(run, reference.initial, build=layout.build)
        except RankError as error:
            return LayoutResult(name=layout.name, ranks=ranks, outcome="failed", reason=_last_line(error))
        recordings = [answer for answer in answers if isinstance(answer, RankRecording)]
        refusals = [answer for answer in answers if isinstance(answer, Refusal)]
        if refusals:
            cause = min(refusals, key=lambda refusal: refusal.is_consequence)
            return LayoutResult(name=layout.name, ranks=ranks, outcome="refused", reason=cause.reason)
        deviations = compare(reference, recordings, self.tolerance)
        return LayoutResult(
            name=layout.name,
            ranks=ranks,
            outcome="differs" if deviations else "equal",
            deviations=tuple(deviations),
            layout_bound=self._layout_bound(recordings),
            losses=tuple(step.loss for step in recordings[0].steps),
            grad_norms=tuple(step.grad_norm for step in recordings[0].steps),
        )

    def _layout_bound(self, recordings: Sequence[RankRecording]) -> tuple[str, ...]:
        """Return the parameters with initial values of the layout; those of a bare Megatron model all may have them."""
        if self.subject.megatron is not None:
            return ()
        return tuple(sorted({name for recording in recordings for name in recording.layout_bound}))


def _one_line(error: ConfigError) -> str:
    return " ".join(problem.message for problem in error.problems)


def _last_line(error: RankError) -> str:
    """Return the message of the exception that a rank raised, without its traceback."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "no message"
