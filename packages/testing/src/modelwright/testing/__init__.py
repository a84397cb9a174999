"""Test support: real ranks in one call, and the check that every layout trains the same model.

`RankPool` starts processes once and runs one distributed function after another on them; `run_ranks` does it once.
`assert_layout_parity` trains a run on a layout and on one rank, and compares every step.
"""

from modelwright.testing._parity import CurvePoint, LayoutParityError, assert_layout_parity, reference_curve
from modelwright.testing._ranks import RankError, RankPool, run_ranks

__all__ = [
    "CurvePoint",
    "LayoutParityError",
    "RankError",
    "RankPool",
    "assert_layout_parity",
    "reference_curve",
    "run_ranks",
]
