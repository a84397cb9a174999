"""Test support: fakes of Megatron-Core's objects, real ranks in one call, and the layout parity check.

`fill` builds a part with the arguments of its slot, a `FakeConfig` and `FakeGroups`, without the engine. `RankPool`
starts processes once and runs distributed functions on them one after another; `run_ranks` runs a single function.
`assert_layout_parity` trains a run on a layout and on one rank, and compares every step.

Each name is loaded with its file at its first use (PEP 562). The fakes load neither torch nor the engine.
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
