"""The fakes replace the engine's objects when a part is built, and are loaded without the engine."""

import subprocess
import sys
from typing import Any

import pytest

from modelwright.protocols import ConformanceError, EngineConfig, MlpBuilder, NormBuilder, ProcessGroups
from modelwright.testing import FakeConfig, FakeGroup, FakeGroups, fill
from tests.messages import facts


class Mlp:
    def __init__(
        self, config: EngineConfig, pg_collection: ProcessGroups, is_mtp_layer: bool, name: str | None
    ) -> None:
        self.given: tuple[Any, ...] = (config.hidden_size, pg_collection.tp.size(), is_mtp_layer, name)

    def forward(self, hidden_SBH: Any, *, padding_mask: Any = None) -> Any:
        return hidden_SBH, None


def test_the_slot_passes_fakes_and_what_is_given() -> None:
    assert fill(MlpBuilder, Mlp).given == (16, 1, False, None)
    groups, config = FakeGroups(tp=FakeGroup(4, 3)), FakeConfig(hidden_size=8)
    assert fill(MlpBuilder, Mlp, pg_collection=groups, config=config, name="mlp").given == (8, 4, False, "mlp")
    assert groups.tp.rank() == 3


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConformanceError, match="`NormBuilder`"):
        fill(NormBuilder, Mlp)


def test_what_the_slot_does_not_pass_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        fill(MlpBuilder, Mlp, width=3)
    assert facts(caught.value) == "`MlpBuilder` `width`"


def test_further_fields_of_the_config() -> None:
    config = FakeConfig(more=(("window_size", (4, 0)),))
    assert config.window_size == (4, 0)
    with pytest.raises(AttributeError) as caught:
        _ = config.moe_router_topk
    assert facts(caught.value).startswith("`FakeConfig` `moe_router_topk`")


def test_the_fakes_load_neither_torch_nor_the_engine() -> None:
    code = (
        "import sys; from modelwright.testing import FakeConfig, FakeGroups, fill; FakeGroups().tp.size(); "
        "print([name for name in ('torch', 'megatron') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
