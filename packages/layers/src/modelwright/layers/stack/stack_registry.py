"""Stack specs under names, so that a file can say `stack: my_stack`.

Code registers a function from a config to a spec; the command line imports that code by `--import` or by the
entry-point group `modelwright.parts`, never because a file named it.
"""

from collections.abc import Callable
from typing import Any

from modelwright.config import ModelConfig
from modelwright.layers.stack.spec import StackSpec
from modelwright.protocols import ModelwrightError, did_you_mean

type StackFunction[ConfigT: ModelConfig] = Callable[[ConfigT], StackSpec]

_stacks: dict[str, StackFunction[Any]] = {}


def register_stack[ConfigT: ModelConfig](name: str, function: StackFunction[ConfigT]) -> None:
    """Let files select a spec by name; a name registered again is replaced.

    Args:
        name: What a file writes after `stack:`.
        function: Makes the spec for a config of the family that it is meant for.
    """
    _stacks[name] = function


def registered_stack(name: str, config: ModelConfig) -> StackSpec:
    """The spec of a name.

    Args:
        name: As written in a file.
        config: Of the model that the spec is for.

    Returns:
        The spec.

    Raises:
        ModelwrightError: Nothing is registered under the name.
    """
    if name not in _stacks:
        known = ", ".join(f"`{stack}`" for stack in sorted(_stacks)) or "none"
        raise ModelwrightError(
            f"`stack` must name a registered stack, but {name!r} is not one (registered: {known})"
            f"{did_you_mean(name, _stacks)}; import the module that calls `register_stack` with `--import`."
        )
    return _stacks[name](config)
