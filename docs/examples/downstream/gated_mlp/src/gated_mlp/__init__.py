"""A gated MLP for the MLP slot: `down(silu(gate(x)) * up(x))`. Shazeer 2020, arXiv 2002.05202.

Every tensor-parallel rank would store all weights, so the tensor-parallel size must be 1.
"""

from torch import Tensor, nn

from modelwright.protocols import EngineConfig, MlpBuilder, ProcessGroups

__all__ = ["GatedMlp"]


class GatedMlp(nn.Module):
    """An MLP with gate and up-projection in one matrix."""

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
                f"`tensor` must be 1 for `GatedMlp`, which is not sharded, but is"
                f" {pg_collection.tp.size()}; set it to 1."
            )
        inner = round(widening * config.hidden_size)
        self.gate_and_up = nn.Linear(config.hidden_size, 2 * inner, bias=False)
        self.down = nn.Linear(inner, config.hidden_size, bias=False)
        if config.init_method is not None and config.output_layer_init_method is not None:
            config.init_method(self.gate_and_up.weight)
            config.output_layer_init_method(self.down.weight)

    def forward(self, hidden_SBH: Tensor, /, *, padding_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Transform [s, b, h] to [s, b, h], without a bias."""
        gate, up = self.gate_and_up(hidden_SBH).chunk(2, dim=-1)
        down: Tensor = self.down(nn.functional.silu(gate) * up)
        return down, None


_fits: MlpBuilder = GatedMlp  # checked by type checkers
