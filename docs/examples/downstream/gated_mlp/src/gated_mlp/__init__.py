"""A gated MLP for the MLP slot: `down(silu(gate(x)) * up(x))`. Shazeer 2020, arXiv 2002.05202.

The weights are whole on every tensor-parallel rank, so it is for models with a tensor-parallel size of 1.
"""

from torch import Tensor, nn

from modelwright.protocols import EngineConfig, MlpBuilder, ProcessGroups

__all__ = ["GatedMlp"]


class GatedMlp(nn.Module):
    """An MLP whose gate and up projection are one matrix."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        pg_collection: ProcessGroups,
        is_mtp_layer: bool = False,
        name: str | None = None,
        widening: float = 8 / 3,
    ) -> None:
        super().__init__()
        if pg_collection.tp.size() != 1:
            raise ValueError(
                f"`tensor` must be 1 for `GatedMlp`, whose weights are not split, but is {pg_collection.tp.size()}."
            )
        inner = round(widening * config.hidden_size)
        self.gate_and_up = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.down = nn.Linear(inner, config.hidden_size, bias=False)
        if config.init_method is not None and config.output_layer_init_method is not None:
            config.init_method(self.gate_and_up.weight)
            config.output_layer_init_method(self.down.weight)

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """From [s, b, h] to [s, b, h], and no bias."""
        gate, up = self.gate_and_up(hidden_SBH).chunk(2, dim=-1)
        down: Tensor = self.down(nn.functional.silu(gate) * up)
        return down, None


_fits: MlpBuilder = GatedMlp  # your type checker reads this line
