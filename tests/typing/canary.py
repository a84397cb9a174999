"""Must fail in both type checkers, and is checked by itself.

If a checker accepts this file, it has taken the engine's types for `Any` (it ships no `py.typed`), or torch's call of a
module has swallowed a wrong `forward`; then everything else under `tests/typing` proves nothing. Each line marked
`canary` must be reported, and no other.
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
