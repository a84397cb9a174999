"""Options with an effect that depends on the layout by definition, such as expert capacity on local tokens.

A layout on which such an option matters is verified with the option off. If that is equal, the layout differs by
definition, and nothing else is wrong.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from modelwright.config import MOE, ExpertsConfig, ModelConfig, RunConfig, replace
from modelwright.verify.layout_choice import Layout


@final
@dataclass(frozen=True, kw_only=True)
class LocalOption:
    """An option that looks at the tokens of one rank or one micro-batch."""

    name: str
    """Path of the option in a run file, with its value."""
    reason: str
    """Clause that says why layouts differ."""
    off: Mapping[str, Any]
    """Fields of the model with the option off."""

    def turned_off(self, run: RunConfig) -> RunConfig:
        """Return a run with the option off.

        Args:
            run: The run on one rank.
        """
        return replace(run, model=replace(run.model, **dict(self.off)))


def local_option(run: RunConfig, layout: Layout) -> LocalOption | None:
    """Return the option of a run that makes a layout differ by definition.

    Args:
        run: The run on one rank.
        layout: The layout.

    Returns:
        The option. None: there is none.
    """
    model: ModelConfig = run.model
    if not isinstance(model, ExpertsConfig) or not model.has(MOE):
        return None
    return next((option(model) for applies, option in _OPTIONS if applies(model, layout)), None)


def _capacity(model: ExpertsConfig) -> LocalOption:
    return LocalOption(
        name=f"model.capacity_factor: {model.capacity_factor:g}",
        reason="the expert capacity counts the tokens that a rank has of a micro-batch",
        off={"capacity_factor": None, "pad_to_capacity": False, "drop_policy": "probs"},
    )


def _balancing(model: ExpertsConfig) -> LocalOption:
    of = {"aux": "a micro-batch", "global_aux": "all ranks and the micro-batches so far"}[model.load_balancing]
    return LocalOption(
        name=f"model.load_balancing: {model.load_balancing}",
        reason=f"the loss is a product of means over {of}",
        off={"load_balancing": "none", "load_balancing_coefficient": 1e-2},
    )


_OPTIONS: Final[tuple[tuple[Callable[[ExpertsConfig, Layout], bool], Callable[[ExpertsConfig], LocalOption]], ...]] = (
    (
        lambda model, layout: (
            model.capacity_factor is not None and (layout.splits_sequences() or layout.micro_batch is not None)
        ),
        _capacity,
    ),
    (lambda model, layout: model.load_balancing == "aux" and layout.micro_batch is not None, _balancing),
    (
        lambda model, layout: (
            model.load_balancing == "global_aux" and (layout.splits_batches() or layout.micro_batch is not None)
        ),
        _balancing,
    ),
)
