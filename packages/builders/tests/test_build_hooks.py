"""Hooks: their order, their phases, their return values, and the message when one fails."""

from typing import Any

import pytest
from torch import nn

from modelwright.builders import BuildContext, Hook, HookError, Phase, ordered_hooks, run_hooks
from modelwright.config import ModelConfig, Parallelism, Precision
from tests.messages import facts

CONTEXT = BuildContext(
    config=ModelConfig(),
    parallelism=Parallelism(),
    precision=Precision(),
    pg_collection=None,  # type: ignore[arg-type] # handed through, never read
    rank=3,
)


def recording(log: list[str], name: str, phase: Phase = "before_wrap", answer: Any = None) -> Hook:
    """Return a hook that logs its name and returns `answer`, or `answer(stages)` if that is callable."""

    def function(stages: list[nn.Module], context: BuildContext) -> Any:
        log.append(name)
        assert context is CONTEXT
        return answer(stages) if callable(answer) else answer

    return Hook(name=name, phase=phase, function=function)


def test_hooks_run_in_the_order_they_were_given() -> None:
    log: list[str] = []
    hooks = ordered_hooks([recording(log, name) for name in ("c", "a", "b")])
    run_hooks(hooks, "before_wrap", [nn.Identity()], CONTEXT)
    assert log == ["c", "a", "b"]


def test_a_repeated_name_replaces_in_place() -> None:
    log: list[str] = []
    replacement = Hook(name="first", phase="before_wrap", function=recording(log, "replaced").function)
    hooks = ordered_hooks([recording(log, "first"), recording(log, "second"), replacement])
    run_hooks(hooks, "before_wrap", [nn.Identity()], CONTEXT)
    assert log == ["replaced", "second"]


def test_one_name_in_two_phases_is_two_hooks() -> None:
    log: list[str] = []
    hooks = ordered_hooks([recording(log, "same", "after_wrap"), recording(log, "same", "before_wrap")])
    assert len(hooks) == 2
    run_hooks(hooks, "before_wrap", [nn.Identity()], CONTEXT)
    assert len(log) == 1


@pytest.mark.parametrize("phase", ["before_wrap", "after_wrap"])
def test_only_the_hooks_of_the_phase_run(phase: Phase) -> None:
    log: list[str] = []
    hooks = [recording(log, "before_wrap", "before_wrap"), recording(log, "after_wrap", "after_wrap")]
    run_hooks(hooks, phase, [nn.Identity()], CONTEXT)
    assert log == [phase]


@pytest.mark.parametrize("position", [0, 1, 2])
def test_none_means_unchanged_at_every_position(position: int) -> None:
    """If one hook returns None, the next one receives the stages of the hook before it."""

    def grown(stages: list[nn.Module]) -> list[nn.Module]:
        return [nn.Sequential(stage, nn.Identity()) for stage in stages]

    log: list[str] = []
    hooks = [recording(log, str(i), answer=None if i == position else grown) for i in range(3)]
    (stage,) = run_hooks(hooks, "before_wrap", [nn.Linear(1, 1)], CONTEXT)
    depth = 0
    while isinstance(stage, nn.Sequential):
        stage, depth = stage[0], depth + 1
    assert (depth, type(stage), log) == (2, nn.Linear, ["0", "1", "2"])


def test_without_hooks_the_stages_pass_through() -> None:
    stages: list[nn.Module] = [nn.Identity(), nn.Identity()]
    assert run_hooks((), "after_wrap", stages, CONTEXT) is stages


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (nn.Identity(), ""),
        ((nn.Identity(),), ""),
        ([nn.Identity(), nn.Identity()], "2 "),
        ([], "0 "),
        (["stage"], "1 "),
        (False, ""),
    ],
)
def test_a_hook_must_return_stages_or_none(answer: Any, shown: str) -> None:
    hook = Hook(name="adapters", phase="before_wrap", function=lambda stages, context: answer)
    with pytest.raises(HookError) as caught:
        run_hooks([hook], "before_wrap", [nn.Linear(1, 1)], CONTEXT)
    assert facts(caught.value) == f"`adapters` 1 None {shown}None".replace("  ", " ")


def test_an_exception_is_reported_with_hook_phase_and_rank() -> None:
    def fails(stages: list[nn.Module], context: BuildContext) -> None:
        raise FileNotFoundError("no weights at /there")

    with pytest.raises(HookError) as caught:
        run_hooks([Hook(name="load", phase="after_wrap", function=fails)], "after_wrap", [nn.Identity()], CONTEXT)
    assert facts(caught.value) == "`load` after_wrap 3 FileNotFoundError /there"
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_failing_hook_stops_those_after_it() -> None:
    log: list[str] = []
    with pytest.raises(HookError):
        run_hooks([recording(log, "a", answer=[]), recording(log, "b")], "before_wrap", [nn.Identity()], CONTEXT)
    assert log == ["a"]


def test_a_phase_must_exist() -> None:
    hook = Hook(name="late", phase="after_build", function=lambda stages, context: None)  # type: ignore[arg-type]
    with pytest.raises(HookError) as caught:
        ordered_hooks([hook])
    assert facts(caught.value) == "`phase` `late` before_wrap after_wrap 'after_build'"
