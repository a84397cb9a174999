"""Registry of stack specs by name, so that a run file can select one: `stack: my_stack`.

Code registers a function from a config to a spec. The command line imports that code by `--import` or by the
entry-point group `modelwright.parts`. A run file alone never causes an import.
"""

from collections.abc import Callable
from typing import Any

from modelwright.config import ModelConfig
from modelwright.layers.stack.spec import StackSpec
from modelwright.protocols import ModelwrightError, did_you_mean

type StackFunction[ConfigT: ModelConfig] = Callable[[ConfigT], StackSpec]

_stacks: dict[str, StackFunction[Any]] = {}


def register_stack[ConfigT: ModelConfig](name: str, function: StackFunction[ConfigT]) -> None:
    """Let run files select a spec by name. A second registration replaces the first.

    Args:
        name: Value of `stack:` in a run file.
        function: Returns the spec for a config of the family that it is written for.
    """
    _stacks[name] = function


def registered_stack(name: str, config: ModelConfig) -> StackSpec:
    """Return the spec that is registered under a name.

    Args:
        name: Value of `stack:` in a run file.
        config: Config of the model.

    Returns:
        The spec.

    Raises:
        ModelwrightError: No spec is registered under the name.
    """
    if name not in _stacks:
        known = ", ".join(f"`{stack}`" for stack in sorted(_stacks)) or "none"
        raise ModelwrightError(
            f"`stack` must name a registered stack, but {name!r} is not one (registered: {known})"
            f"{did_you_mean(name, _stacks)}; import the module that calls `register_stack` with `--import`."
        )
    return _stacks[name](config)
