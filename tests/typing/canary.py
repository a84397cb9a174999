"""Lines that both type checkers must reject; this file is checked by itself.

If a checker accepts one of them, everything else under `tests/typing` proves nothing. Either the engine's types are
`Any` for the checker (the engine has no `py.typed`), or torch's call of a module hides a wrong `forward`, or every
misspelled name exists in a lazy door. Each line marked `canary` must be reported, and no other.
"""

from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn

from modelwright.protocols import NormInterface


class NotANorm(nn.Module):
    def forward(self, hidden_SBH: Tensor) -> int:
        return 0


def engine_types_are_known(config: TransformerConfig) -> str:
    return config.hidden_size  # canary: it is an int


def wrong_forward_is_seen(part: NotANorm) -> NormInterface:
    return part  # canary: its forward returns an int


def misspelled_names_are_seen() -> None:
    from modelwright.protocols import MlpBuidler  # noqa: F401 # canary: there is no such name
