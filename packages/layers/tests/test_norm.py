"""The norm of the torch backend against its formulas."""

import pytest
import torch
from megatron.core.transformer import TransformerConfig
from torch import Tensor

from modelwright.config import Parallelism, Precision
from modelwright.engine import device_runtime
from modelwright.layers import TorchNorm, resolve
from modelwright.protocols import ModelwrightError, NormBuilder, check_conformance
from packages.layers.tests.toy import ToyConfig
from tests.messages import facts


def norm(kind: str, **changes: object) -> TorchNorm:
    with device_runtime():
        made = TorchNorm(
            config=resolve(ToyConfig(normalization=kind), Parallelism(), Precision()), hidden_size=16, eps=1e-3
        )
    torch.nn.init.normal_(made.weight)
    return made


def rms(x: Tensor) -> Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-3)


def test_rms_norm() -> None:
    made, x = norm("RMSNorm"), torch.randn(3, 2, 16)
    assert made.bias is None
    assert torch.allclose(made(x), rms(x) * made.weight, atol=1e-6)


def test_layer_norm() -> None:
    made, x = norm("LayerNorm"), torch.randn(3, 2, 16)
    assert made.bias is not None
    torch.nn.init.normal_(made.bias)
    centered = x - x.mean(-1, keepdim=True)
    expected = centered / torch.sqrt((centered**2).mean(-1, keepdim=True) + 1e-3)
    assert torch.allclose(made(x), expected * made.weight + made.bias, atol=1e-6)


def test_it_starts_as_the_plain_norm() -> None:
    with device_runtime():
        made = TorchNorm(config=resolve(ToyConfig(), Parallelism(), Precision()), hidden_size=16, eps=1e-3)
    x = torch.randn(2, 16)
    assert torch.allclose(made(x), rms(x), atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_dtype_stays(dtype: str) -> None:
    with device_runtime():
        config = resolve(ToyConfig(), Parallelism(), Precision(params=dtype))  # type: ignore[arg-type]
        made = TorchNorm(config=config, hidden_size=16, eps=1e-5)
    x = torch.ones(2, 16, dtype=getattr(torch, dtype))
    assert made.weight.dtype == made(x).dtype == x.dtype


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("kind", ["RMSNorm", "LayerNorm"])
def test_the_engine_is_told_whether_gradients_are_partial(kind: str, sequence: bool) -> None:
    config = resolve(ToyConfig(normalization=kind), Parallelism(tensor=2, sequence=sequence), Precision())
    with device_runtime():
        made = TorchNorm(config=config, hidden_size=16, eps=1e-5)
    marks = [parameter.sequence_parallel for parameter in made.parameters()]  # type: ignore[attr-defined]
    assert marks == [sequence] * (2 if kind == "LayerNorm" else 1)


def test_another_normalization() -> None:
    config = TransformerConfig(num_layers=1, hidden_size=16, num_attention_heads=1, normalization="L2Norm")
    with pytest.raises(ModelwrightError) as caught, device_runtime():
        TorchNorm(config=config, hidden_size=16, eps=1e-5)
    assert facts(caught.value) == "`normalization` `torch` 'L2Norm'"


def test_it_fits_the_slot() -> None:
    check_conformance(NormBuilder, TorchNorm)
