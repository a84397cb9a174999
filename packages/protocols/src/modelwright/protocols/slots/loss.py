"""The loss slot of a model: a function, so there is nothing to build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup


class LossInterface(Protocol):
    """Cross entropy over logits that are split over the vocabulary; the engine's is `vocab_parallel_cross_entropy`."""

    def __call__(self, logits_SBV: Tensor, labels_SB: Tensor, /, *, tp_group: ProcessGroup) -> Tensor:
        """Compute the losses. Called by `LanguageModule.compute_language_model_loss`, unless a fused loss is asked for.

        Args:
            logits_SBV: `[s, b, v / tensor-parallel size]`.
            labels_SB: `[s, b]`, tokens of the whole vocabulary.
            tp_group: The tensor-parallel group, over which the vocabulary is split.

        Returns:
            `[s, b]`.
        """
        ...
