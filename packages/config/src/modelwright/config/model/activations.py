"""Names of the activations that a config may use, and which of them are gated.

The vocabulary is closed, so that a file cannot name code. The functions themselves are in `modelwright.layers`. Its
`register_activation(name, fn)` adds a custom activation, and calls `register_activation_name` of this module.
"""

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.problems.wording import quoted_list
from modelwright.protocols import did_you_mean

__all__ = ["activation_is_gated", "activation_names", "activation_problem", "register_activation_name"]

# True for the gated linear units (Shazeer, arXiv:2002.05202). This is the only table of this fact.
_GATED: dict[str, bool] = {
    "swiglu": True,
    "geglu": True,
    "gelu": False,
    "gelu_tanh": False,
    "relu": False,
    "squared_relu": False,
    "silu": False,
}


def activation_names() -> tuple[str, ...]:
    """Return the names of all activations.

    Returns:
        The built-in names, then the registered ones.
    """
    return tuple(_GATED)


def activation_is_gated(name: str) -> bool:
    """Return True if an activation multiplies by a second projection, so that the first linear is twice as wide.

    Args:
        name: Name of an activation.

    Returns:
        True for the gated linear units (Shazeer, arXiv:2002.05202).

    Raises:
        ConfigError: If there is no activation of that name.
    """
    problem = activation_problem("activation", name)
    if problem is not None:
        raise ConfigError((problem,))
    return _GATED[name]


def register_activation_name(name: str, *, gated: bool = False) -> None:
    """Add a name to the vocabulary.

    Args:
        name: Name for use in configs.
        gated: True if the activation multiplies by a second projection.

    Raises:
        ConfigError: If the name is registered already with another value of `gated`.
    """
    if _GATED.setdefault(name, gated) != gated:
        sort = "gated" if _GATED[name] else "not gated"
        raise ConfigError((Problem("", f"the activation `{name}` exists already and is {sort}; use another name."),))


def activation_problem(field: str, name: str) -> Problem | None:
    """Check that a field contains the name of an activation.

    Args:
        field: Name of the field.
        name: Value of the field.

    Returns:
        A problem if there is no activation of that name.
    """
    if name in _GATED:
        return None
    near = did_you_mean(name, _GATED) or "; add others with `modelwright.layers.register_activation`."
    message = f"`{field}` must be {quoted_list(_GATED, 'or')}, but `{name}` was given{near}"
    return Problem(field, message, code="wrong_value")
