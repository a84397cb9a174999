"""Test support: fakes of the engine, real ranks in one call, and the check that every layout trains the same model.

`fill` builds a part in its slot with a `FakeConfig` and `FakeGroups`, without the engine. `RankPool` starts processes
once and runs one distributed function after another on them; `run_ranks` does it once. `assert_layout_parity` trains a
run on a layout and on one rank, and compares every step.

Each name is loaded with its file when it is first used (PEP 562): the fakes load neither torch nor the engine.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.testing._fakes import FakeConfig, FakeGroup, FakeGroups, fill
    from modelwright.testing._parity import CurvePoint, LayoutParityError, assert_layout_parity, reference_curve
    from modelwright.testing._ranks import RankError, RankPool, run_ranks

__all__ = [
    "CurvePoint",
    "FakeConfig",
    "FakeGroup",
    "FakeGroups",
    "LayoutParityError",
    "RankError",
    "RankPool",
    "assert_layout_parity",
    "fill",
    "reference_curve",
    "run_ranks",
]

_HOMES = {
    "_fakes": ("FakeConfig", "FakeGroup", "FakeGroups", "fill"),
    "_parity": ("CurvePoint", "LayoutParityError", "assert_layout_parity", "reference_curve"),
    "_ranks": ("RankError", "RankPool", "run_ranks"),
}


def __getattr__(name: str) -> object:
    """Load the file that a name lives in."""
    home = next((file for file, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found: object = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = found
    return found
