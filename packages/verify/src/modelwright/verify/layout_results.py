"""`Verdict`: the result of a verification, for people and for programs.

The classes are pydantic models, so that `Verdict.model_json_schema()` is the schema of the JSON form.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from modelwright.verify.deviations import Deviation

type Outcome = Literal["equal", "differs", "refused", "differs by definition", "failed"]
"""Result on one layout."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class LayoutResult(_Model):
    """The result on one layout."""

    name: str
    """Name of the layout, such as `tensor=2 sequence`."""
    ranks: int
    """Number of ranks."""
    outcome: Outcome
    """Result. `refused`: the layout is not legal for the model. `differs by definition`: an option of the model depends
    on the layout. `failed`: an error while training."""
    reason: str = ""
    """Reason of a refusal or failure, or the option by which the layout differs."""
    deviations: tuple[Deviation, ...] = ()
    """Differences of the first step that has any, the most likely cause first."""
    layout_bound: tuple[str, ...] = ()
    """Parameters with initial values that depend on the layout. They were replaced by those of one rank."""
    losses: tuple[float, ...] = ()
    """Loss of each step."""
    grad_norms: tuple[float, ...] = ()
    """Gradient norm of each step."""
    seconds: float = 0.0
    """Time that the layout took."""

    def sentence(self) -> str:
        """Return the result as one clause."""
        if not self.deviations:
            return self.reason
        first, *others = self.deviations
        more = f" (and {len(others)} more)" if others else ""
        return f"{first.sentence()}{more}, step {first.step}"


class Verdict(_Model):
    """The results on all layouts."""

    subject: str
    """Name of the model."""
    dtype: str
    """Dtype of the computation."""
    tolerance: float
    """Largest difference of outputs, gradients and losses that counts as rounding, relative to the largest value."""
    update_tolerance: float
    """Largest difference of the changes of parameters that counts as rounding."""
    changes: tuple[str, ...] = ()
    """Changes of the run that made it small and sensitive, in words."""
    losses: tuple[float, ...] = ()
    """Loss of each step on one rank."""
    grad_norms: tuple[float, ...] = ()
    """Gradient norm of each step on one rank."""
    layouts: tuple[LayoutResult, ...] = Field(default=())
    """One result for each layout."""

    @property
    def is_equal(self) -> bool:
        """Return True if no layout differs or fails."""
        return not any(layout.outcome in ("differs", "failed") for layout in self.layouts)

    def on(self, name: str) -> LayoutResult:
        """Return the result on a layout.

        Args:
            name: Name of the layout.

        Raises:
            KeyError: The layout was not verified.
        """
        return {layout.name: layout for layout in self.layouts}[name]
