"""The warning about scales of 8-bit dtypes that a checkpoint leaves out."""

import warnings

from modelwright.config import RunConfig
from modelwright.protocols import ModelwrightWarning

_DEFAULT_RECIPE = "delayed"


def warn_of_unsaved_scales(run: RunConfig) -> None:
    """Warn that a resumed run will differ from the unbroken one, because Transformer Engine keeps state of its own.

    With the recipe `delayed`, its scales come from the maxima of earlier steps. It offers them as a pickle, which a
    checkpoint of modelwright does not contain.

    Args:
        run: The config of a run that saves checkpoints.
    """
    engine = run.model.engine
    if engine.get("fp8") is None or engine.get("fp8_recipe", _DEFAULT_RECIPE) != _DEFAULT_RECIPE:
        return
    text = (
        "checkpoints leave out the scales of `engine.fp8` that Transformer Engine keeps with `engine.fp8_recipe: "
        "delayed`, because it stores them as a pickle. A resumed run measures them anew, so that its first steps "
        "differ from those of the unbroken run; set `engine.fp8_recipe: tensorwise` to resume exactly."
    )
    warnings.warn(ModelwrightWarning(text), stacklevel=3)
