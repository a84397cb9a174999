"""Scaling of rotary position embeddings beyond the sequence length of the training."""

from collections.abc import Iterator
from typing import ClassVar, final, override

from modelwright.config.problems.numbers import Count, PositiveFloat
from modelwright.config.problems.problem import Problem
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["Llama3RopeScaling"]


@final
@config_class
class Llama3RopeScaling(Config):
    """Scaling of Llama 3.1 (model card of Meta-Llama-3.1): low frequencies are slowed, high ones are kept."""

    kind: ClassVar[str] = "llama3"

    factor: PositiveFloat = 8.0
    """Factor by which the lowest frequencies are slowed."""

    low_freq_factor: PositiveFloat = 1.0
    """Divisor of `original_seq_length` that gives the wavelength above which `factor` applies in full."""

    high_freq_factor: PositiveFloat = 4.0
    """Divisor of `original_seq_length` that gives the wavelength below which nothing is scaled. Between the two
    wavelengths the scaling is interpolated."""

    original_seq_length: Count = 8192
    """Sequence length before the scaling, in tokens."""

    @override
    def problems(self) -> Iterator[Problem]:
        if self.high_freq_factor <= self.low_freq_factor:
            rule = "`high_freq_factor` must be above `low_freq_factor`"
            yield Problem(
                "high_freq_factor", f"{rule}, but {self.high_freq_factor} is not above {self.low_freq_factor}."
            )
