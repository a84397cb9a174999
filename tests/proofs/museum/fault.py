"""A fault of a public report, with what `verify` must say about it."""

from dataclasses import dataclass, field
from typing import Any

from modelwright.testing import RankPool
from modelwright.verify import Deviation, MegatronModel, Verdict, verify

STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One exhibit."""

    name: str
    report: str
    """Address of the public report."""
    build: Any
    """Function that builds the bare Megatron model."""
    layouts: tuple[str, ...]
    """Layouts that must differ."""
    equal: tuple[str, ...] = ()
    """Layouts that must be equal, so that it is the layout that is blamed and not the model."""
    kind: str
    """Quantity that differs first."""
    module: str
    """What the name of the module must contain."""
    clause: str = ""
    """What the sentence must contain."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the model."""


def verdict_on(exhibit: Fault, pool: RankPool) -> Verdict:
    """Verify an exhibit on its layouts."""
    model = MegatronModel(build=exhibit.build, **exhibit.options)
    return verify(model, layouts=[*exhibit.layouts, *exhibit.equal], steps=STEPS, pool=pool)


def check(exhibit: Fault, pool: RankPool) -> None:
    """The fault trains without an error and with a falling loss, and the verdict names the module."""
    verdict = verdict_on(exhibit, pool)
    for name in exhibit.layouts:
        result = verdict.on(name)
        assert result.outcome == "differs", (name, result.outcome, result.reason)
        assert result.losses[-1] < result.losses[0] - 0.1, (name, result.losses)
        first: Deviation = result.deviations[0]
        assert first.kind == exhibit.kind, result.sentence()
        assert exhibit.module in first.name, result.sentence()
        assert exhibit.clause in result.sentence(), result.sentence()
    for name in exhibit.equal:
        assert verdict.on(name).outcome == "equal", (name, verdict.on(name).sentence())
