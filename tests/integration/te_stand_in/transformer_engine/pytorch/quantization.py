"""The contexts in which parts compute in narrow dtypes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from transformer_engine.common.recipe import DelayedScaling
from transformer_engine.recorded import record


class _Autocast(NamedTuple):
    enabled: bool
    recipe: Any


_autocasts = [_Autocast(enabled=False, recipe=None)]
_inits = [False]


class FP8GlobalStateManager:
    """Answers which contexts are active."""

    @classmethod
    def is_fp8_enabled(cls) -> bool:
        return _autocasts[-1].enabled

    @classmethod
    def is_fp8_calibration(cls) -> bool:
        return False

    @classmethod
    def get_fp8_recipe(cls) -> Any:
        return _autocasts[-1].recipe or DelayedScaling()

    @classmethod
    def with_fp8_parameters(cls) -> bool:
        return _inits[-1]


@contextmanager
def fp8_autocast(
    enabled: bool = True,
    calibrating: bool = False,
    fp8_recipe: Any = None,
    fp8_group: Any = None,
    _graph: bool = False,
) -> Iterator[None]:
    record("fp8_autocast", enabled=enabled, recipe=fp8_recipe, group=fp8_group)
    _autocasts.append(_Autocast(enabled, fp8_recipe))
    try:
        yield
    finally:
        _autocasts.pop()
        record("end of fp8_autocast")


@contextmanager
def fp8_model_init(
    enabled: bool = True, recipe: Any = None, preserve_high_precision_init_val: bool = False
) -> Iterator[None]:
    record("fp8_model_init", enabled=enabled, recipe=recipe, preserve=preserve_high_precision_init_val)
    _inits.append(enabled)
    try:
        yield
    finally:
        _inits.pop()
