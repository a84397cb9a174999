"""Test support: fakes of the engine, real ranks in one call, and the check that every layout trains the same model.

`fill` builds a part in its slot with a `FakeConfig` and `FakeGroups`, without the engine. `RankPool` starts processes
once and runs one distributed function after another on them; `run_ranks` does it once. `assert_layout_parity` trains a
run on a layout and on one rank, and compares every step.

Each name is loaded with its file when it is first used (PEP 562): the fakes load neither torch nor the engine.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.distributed import RankError, RankPool, run_ranks
    from modelwright.testing.fakes import FakeConfig, FakeGroup, FakeGroups, fill
    from modelwright.testing.layout_parity import CurvePoint, LayoutParityError, assert_layout_parity, reference_curve
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

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
