"""`Deviation`: one thing that differs between a layout and one rank, with its place and what its size says."""

from dataclasses import dataclass
from typing import Final, Literal, final

type Kind = Literal[
    "output",
    "token loss",
    "loss",
    "tokens per expert",
    "router loss",
    "gradient",
    "gradient norm",
    "parameter",
    "copies",
]
"""Quantity that differs."""

KINDS: Final[tuple[Kind, ...]] = (
    "output",
    "token loss",
    "tokens per expert",
    "router loss",
    "loss",
    "gradient",
    "gradient norm",
    "copies",
    "parameter",
)
"""Quantities in the order of a step: the first one that differs is the cause, the others may be consequences."""


@final
@dataclass(frozen=True, kw_only=True)
class Deviation:
    """A quantity of one step that is not the same on a layout and on one rank."""

    step: int
    """Number of the step, from 1."""
    kind: Kind
    """Quantity that differs."""
    name: str
    """Name of the module or parameter in the whole model; empty for a quantity of the whole model."""
    error: float
    """Largest difference, relative to the largest value on one rank; infinite if a value is not finite."""
    ratio: float | None = None
    """Constant factor between the layout and one rank. `null`: the values differ by no constant factor."""
    axis: str | None = None
    """Axis of parallelism that explains the difference. `null`: none was recognized."""
    explanation: str = ""
    """Clause that says how the axis explains the difference."""
    shape: tuple[int, ...] = ()
    """Shape of the unsharded tensor."""
    groups: dict[str, int] | None = None
    """Sizes of the axes above 1 over whose ranks the tensor was compared."""

    def sentence(self) -> str:
        """Return the difference as one clause."""
        subject = f"`{self.name}`" if self.name else f"the {self.kind}"
        what = {"token loss": "token loss computed from it "}.get(self.kind, f"{self.kind} ") if self.name else ""
        if self.explanation:
            return f"{subject}: {what}{self.explanation}"
        if self.error == float("inf"):
            return f"{subject}: {what}is not finite"
        return f"{subject}: {what}differs by {self.error:.1e} of its largest value"
