"""Sampling: choosing the next token from the logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modelwright.protocols import ModelwrightError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Options for choosing the next token.

    Raises:
        ModelwrightError: A value is out of its range.
    """

    temperature: float = 0.0
    """Divides the logits, at least 0. 0: always the most likely token."""
    top_k: int | None = None
    """Number of most likely tokens to sample among, at least 1. None: all."""
    top_p: float | None = None
    """Probability mass of the most likely tokens to sample among, above 0 and at most 1 (nucleus sampling, Holtzman et
    al. 2019, arXiv 1904.09751). None: all."""
    seed: int = 0
    """Seed of the draws, from 0 to 2**63 - 1."""

    def __post_init__(self) -> None:
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise ModelwrightError(
                f"`temperature` must be finite and at least 0, but is {self.temperature}; use 0 for the most likely "
                "token each time."
            )
        if self.top_k is not None and self.top_k < 1:
            raise ModelwrightError(
                f"`top_k` must be at least 1, but is {self.top_k}; leave it out to sample among all tokens."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ModelwrightError(
                f"`top_p` must be above 0 and at most 1, but is {self.top_p}; leave it out to sample among all tokens, "
                "or use `temperature` 0 for the most likely token."
            )

        if not 0 <= self.seed < 2**63:
            raise ModelwrightError(f"`seed` must be from 0 to 2**63 - 1, but is {self.seed}; use a smaller one.")

    def choose(self, logits_V: Tensor, generator: torch.Generator) -> int:
        """Choose one token.

        Args:
            logits_V: Logits of every token, [v].
            generator: Source of the random numbers.

        Returns:
            The index of the token.
        """
        if self.temperature == 0.0:
            return int(logits_V.argmax())
        ranked, order = (logits_V.float() / self.temperature).sort(descending=True)
        probabilities = ranked.softmax(0)
        if self.top_k is not None:
            probabilities[self.top_k :] = 0.0
        if self.top_p is not None:
            probabilities[probabilities.cumsum(0) - probabilities >= self.top_p] = 0.0
        return int(order[torch.multinomial(probabilities, 1, generator=generator)])
