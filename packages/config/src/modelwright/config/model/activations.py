"""The names of activations that a config may use. The functions live with the layers; here are names alone.

The vocabulary is closed so that a file cannot name code. A program adds to it with `modelwright.layers`'
`register_activation(name, fn)`, which calls `register_activation_name`.
"""

from modelwright.config.problems.problem import ConfigError, Problem
from modelwright.config.strict.by_kind import quoted_list
from modelwright.protocols import did_you_mean

__all__ = ["activation_is_gated", "activation_names", "activation_problem", "register_activation_name"]

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
    """The names that exist.

    Returns:
        The built-in ones, then the registered ones.
    """
    return tuple(_GATED)


def activation_is_gated(name: str) -> bool:
    """Whether an activation multiplies by a second projection, so that the first linear is twice as wide.

    Args:
        name: A name that exists.

    Returns:
        True for the gated linear units (Shazeer, arXiv:2002.05202).

    Raises:
        ConfigError: If the name does not exist.
    """
    problem = activation_problem("activation", name)
    if problem is not None:
        raise ConfigError((problem,))
    return _GATED[name]


def register_activation_name(name: str, *, gated: bool = False) -> None:
    """Add a name to the vocabulary.

    Args:
        name: The name that configs will use.
        gated: Whether it multiplies by a second projection.

    Raises:
        ConfigError: If the name is taken by one of the other sort.
    """
    if _GATED.setdefault(name, gated) != gated:
        sort = "gated" if _GATED[name] else "not gated"
        raise ConfigError((Problem("", f"the activation `{name}` exists already and is {sort}; use another name."),))


def activation_problem(field: str, name: str) -> Problem | None:
    """Rule: a field holds the name of an activation.

    Args:
        field: The field.
        name: Its value.

    Returns:
        A problem if no activation has that name.
    """
    if name in _GATED:
        return None
    near = did_you_mean(name, _GATED) or "; add others with `modelwright.layers.register_activation`."
    return Problem(field, f"`{field}` must be {quoted_list(_GATED, 'or')}, but `{name}` was given{near}")
