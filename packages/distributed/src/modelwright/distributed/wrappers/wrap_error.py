"""The error of a data-parallel wrapper."""

from modelwright.protocols import ModelwrightError


class WrapError(ModelwrightError):
    """A wrapper that is not registered, or that does not fit the stages."""
