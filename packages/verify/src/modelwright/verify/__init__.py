"""Verification: proof that a model computes the same on every layout of its ranks.

    from modelwright.config import load
    from modelwright.verify import verify

    verdict = verify(load("gpt-tiny.yaml"))

`verify` trains a model for a few steps on one rank and on each layout, from the same initial values and on the same
batches. It compares losses, the gradient of every parameter, its copies, and the output of every module.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelwright.verify.comparison import within
    from modelwright.verify.deviations import Deviation
    from modelwright.verify.layout_results import LayoutResult, Verdict
    from modelwright.verify.on_ranks.rank_job import losses_and_norms
    from modelwright.verify.proof import VerifyError, verify
    from modelwright.verify.subject import MegatronModel
else:
    from modelwright.protocols import lazy_door

    __getattr__, __dir__ = lazy_door(__name__, __file__)

__all__ = [
    "Deviation",
    "LayoutResult",
    "MegatronModel",
    "Verdict",
    "VerifyError",
    "losses_and_norms",
    "verify",
    "within",
]
