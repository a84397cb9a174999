"""Test support: real ranks in one call.

`RankPool` starts processes once and runs one distributed function after another on them; `run_ranks` does it once.
"""

from modelwright.testing._ranks import RankError, RankPool, run_ranks

__all__ = ["RankError", "RankPool", "run_ranks"]
