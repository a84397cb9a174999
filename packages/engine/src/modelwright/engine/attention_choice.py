"""The environment variables by which the engine tells Transformer Engine which attention to use.

The engine sets them when it builds a model, and refuses to build another one that asks for other attention. Without
`forget_attention_choice` the first model of a process would decide for all later ones.
"""

import os
from typing import Final

_VARIABLES: Final = (
    "NVTE_FLASH_ATTN",
    "NVTE_FUSED_ATTN",
    "NVTE_UNFUSED_ATTN",
    "NVTE_FLASH_ATTN_V2",
    "NVTE_FLASH_ATTN_V3",
    "NVTE_FLASH_ATTN_V4",
)
# Their values before the job, for `forget_attention_choice`.
_before: dict[str, str | None] = {}


def remember_attention_choice() -> None:
    """Note the variables as they are, until `forget_attention_choice`."""
    for name in _VARIABLES:
        _before.setdefault(name, os.environ.get(name))


def forget_attention_choice() -> None:
    """Restore the variables that `remember_attention_choice` noted."""
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()
