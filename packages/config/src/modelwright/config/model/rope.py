"""Scaling of rotary position embeddings beyond the sequence length of the training."""

from collections.abc import Iterator
from typing import ClassVar, final, override

from modelwright.config.problems.numbers import Count, NonNegativeFloat, PositiveFloat
from modelwright.config.problems.problem import Problem
from modelwright.config.strict.config_class import Config, config_class

__all__ = ["Llama3RopeScaling", "RopeScaling", "YarnRopeScaling"]


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


@final
@config_class
class YarnRopeScaling(Config):
    """YaRN (arXiv:2309.00071): low frequencies are slowed, high ones are kept, and the rotated heads are scaled."""

    kind: ClassVar[str] = "yarn"

    factor: PositiveFloat = 40.0
    """Factor by which the lowest frequencies are slowed: the longer context as a multiple of the original one."""

    original_seq_length: Count = 4096
    """Sequence length before the scaling, in tokens."""

    beta_fast: PositiveFloat = 32.0
    """Number of turns within `original_seq_length` above which a frequency is kept."""

    beta_slow: PositiveFloat = 1.0
    """Number of turns within `original_seq_length` below which `factor` applies in full. Between the two numbers the
    scaling is interpolated."""

    mscale: NonNegativeFloat = 1.0
    """Strength of the scaling of queries and keys. With `m(x)` = 0.1 × `x` × ln(`factor`) + 1, the rotated part of each
    head is multiplied by m(`mscale`) / m(`mscale_all_dim`)."""

    mscale_all_dim: NonNegativeFloat = 0.0
    """Divisor of that scaling. With MLA, the attention scores are multiplied by the square of m(`mscale_all_dim`), as
    in DeepSeek-V3."""

    truncate: bool = True
    """Round the range of the interpolated frequencies to whole dims, as the reference implementation does."""

    @override
    def problems(self) -> Iterator[Problem]:
        if self.factor <= 1:
            yield Problem("factor", f"`factor` must be above 1, but is {self.factor}; leave `rope_scaling` out.")
        if self.beta_fast <= self.beta_slow:
            rule = "`beta_fast` must be above `beta_slow`"
            yield Problem("beta_fast", f"{rule}, but {self.beta_fast} is not above {self.beta_slow}; raise it.")


RopeScaling = Llama3RopeScaling | YarnRopeScaling
"""Any scaling of the rotary wavelengths that a file may name."""
