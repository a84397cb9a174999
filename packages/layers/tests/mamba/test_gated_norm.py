"""The gated norm against its formula written out."""

from typing import Any

import pytest
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor

from modelwright.layers import GatedRMSNorm
from modelwright.layers.mamba import cached_blocks
from modelwright.protocols import GatedNormBuilder, ModelwrightError, check_conformance
from tests.messages import facts


def norm(size: int = 12, group: int = 4, *, before: bool = False, dtype: torch.dtype = torch.float64) -> Any:
    made = GatedRMSNorm(
        size, eps=1e-3, group_size=group, norm_before_gate=before, device=torch.device("cpu"), dtype=dtype
    )
    torch.nn.init.normal_(made.weight)
    return made


def rms(x: Tensor, group: int) -> Tensor:
    parts = [part / torch.sqrt((part**2).mean(-1, keepdim=True) + 1e-3) for part in x.split(group, dim=-1)]
    return torch.cat(parts, dim=-1)


def swish(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-z))


@pytest.mark.parametrize("group", [1, 4, 12])
def test_both_orders(group: int) -> None:
    x, z = torch.randn(2, 3, 2, 12, dtype=torch.float64)
    after, before = norm(group=group), norm(group=group, before=True)
    assert torch.allclose(after(x, z), rms(x * swish(z), group) * after.weight)
    assert torch.allclose(before(x, z), rms(x, group) * before.weight * swish(z))
    assert torch.allclose(after(x), rms(x, group) * after.weight)


@pytest.mark.parametrize("elements", [2**16, 1], ids=["one block", "a block per row"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_gradients(elements: int, before: bool, gated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_blocks, "_ELEMENTS", elements)
    made = norm(before=before)
    x, z = (part.requires_grad_() for part in torch.randn(2, 3, 2, 12, dtype=torch.float64))

    def normed(x: Tensor, weight: Tensor, *z: Tensor) -> Any:
        return torch.func.functional_call(made, {"weight": weight}, (x, *z))

    assert torch.autograd.gradcheck(normed, [x, made.weight, *([z] if gated else [])])


def test_a_tensor_rank_alone_equals_its_part() -> None:
    whole, x, z = norm(), *torch.randn(2, 3, 12, dtype=torch.float64)
    part = norm(4)
    with torch.no_grad():
        part.weight.copy_(whole.weight[4:8])
    assert torch.allclose(part(x[:, 4:8], z[:, 4:8]), whole(x, z)[:, 4:8])


def test_bfloat16_is_rounded_once() -> None:
    made, (x, z) = norm(dtype=torch.bfloat16), torch.randn(2, 5, 12).bfloat16()
    y = made(x, z)
    expected = rms(x.double() * swish(z.double()), 4) * made.weight.double()
    assert y.dtype == torch.bfloat16
    assert torch.allclose(y.double(), expected, rtol=2**-8, atol=1e-6)


def test_it_is_saved_as_a_shard(groups: ProcessGroupCollection) -> None:
    made = norm()
    with pytest.raises(ModelwrightError) as caught:
        made.sharded_state_dict()
    assert facts(caught.value) == "`tp_group` None"
    made.tp_group = groups.tp
    (name,), (shard,) = zip(*made.sharded_state_dict("norm.", (), {"dp_cp_group": groups.dp_cp}).items(), strict=True)
    assert name == shard.key == "norm.weight"
    assert shard.global_shape == (12,)


def test_a_group_that_does_not_divide() -> None:
    with pytest.raises(ModelwrightError) as caught:
        norm(group=5)
    assert facts(caught.value) == "`group_size` 5 12"


def test_it_fits_the_slot() -> None:
    check_conformance(GatedNormBuilder, GatedRMSNorm)
