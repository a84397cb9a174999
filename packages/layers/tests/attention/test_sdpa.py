"""The core attention of the torch backend against softmax written out."""

from typing import Any

import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from torch import Tensor

from modelwright.config import Parallelism, Precision
from modelwright.layers import SdpaCoreAttention, resolve
from modelwright.protocols import CoreAttentionBuilder, ModelwrightError, check_conformance
from packages.layers.tests.toy import ToyConfig

S, B, N, D = 6, 2, 4, 8


def attention(mask: AttnMaskType = AttnMaskType.causal, parallelism: Parallelism | None = None, **changes: Any) -> Any:
    config = resolve(ToyConfig(), parallelism or Parallelism(), Precision())
    return SdpaCoreAttention(config=config, layer_number=1, attn_mask_type=mask, attention_type="self", **changes)


def tensors(queries: int = S, keys: int = S, groups: int = N, value_size: int = D) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query, key = torch.randn(queries, B, N, D), torch.randn(keys, B, groups, D)
    return query, key, torch.randn(keys, B, groups, value_size)


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    hidden: Tensor | None = None,
    bias: Tensor | float = 0.0,
    scale: float = D**-0.5,
) -> Tensor:
    """Softmax attention; `hidden` and `bias` are broadcast to [b, n, queries, keys]."""
    repeats = query.size(2) // key.size(2)
    key, value = key.repeat_interleave(repeats, dim=2), value.repeat_interleave(repeats, dim=2)
    scores = torch.einsum("sbnd,tbnd->bnst", query, key) * scale + bias
    if hidden is not None:
        scores = scores.masked_fill(hidden, float("-inf"))
    return torch.einsum("bnst,tbnd->sbnd", scores.softmax(-1), value).flatten(2)


def later(queries: int = S, keys: int = S) -> Tensor:
    """True where a key comes after its query, the last query standing at the last key."""
    return torch.arange(keys) > torch.arange(queries)[:, None] + keys - queries


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_grouped_queries(groups: int, causal: bool) -> None:
    parts = tensors(groups=groups)
    part = attention(AttnMaskType.causal if causal else AttnMaskType.no_mask)
    expected = reference(*parts, hidden=later() if causal else None)
    assert torch.allclose(part(*parts, None), expected, atol=1e-6)


def test_a_call_may_name_another_mask() -> None:
    parts = tensors()
    answer = attention(AttnMaskType.no_mask)(*parts, None, attn_mask_type=AttnMaskType.causal)
    assert torch.allclose(answer, reference(*parts, hidden=later()), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_a_padding_mask(causal: bool) -> None:
    parts = tensors(groups=2)
    padding = torch.zeros(B, 1, 1, S, dtype=torch.bool)
    padding[1, ..., 4:] = True
    part = attention(AttnMaskType.padding_causal if causal else AttnMaskType.padding)
    hidden = padding | later() if causal else padding
    assert torch.allclose(part(*parts, padding), reference(*parts, hidden=hidden), atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
def test_a_bias(causal: bool) -> None:
    parts, bias = tensors(), torch.randn(B, N, S, S)
    part = attention(AttnMaskType.causal if causal else AttnMaskType.no_mask)
    expected = reference(*parts, bias=bias, hidden=later() if causal else None)
    assert torch.allclose(part(*parts, None, attention_bias=bias), expected, atol=1e-6)


def test_mask_and_bias_together() -> None:
    parts, bias = tensors(), torch.randn(1, N, 1, S)
    hidden = torch.zeros(B, 1, S, S, dtype=torch.bool)
    hidden[0, :, :, 1] = True
    expected = reference(*parts, bias=bias, hidden=hidden | later())
    assert torch.allclose(attention()(*parts, hidden, attention_bias=bias), expected, atol=1e-6)


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_the_last_queries_of_a_longer_sequence(queries: int) -> None:
    """Decoding: the cache has more keys than there are queries, and the last query attends to all of them."""
    whole = tensors(groups=2)
    expected = attention()(*whole, None)[-queries:]
    answer = attention()(whole[0][-queries:], whole[1], whole[2], None)
    assert torch.allclose(answer, expected, atol=1e-6)


def test_the_scale() -> None:
    parts = tensors()
    answer = attention(softmax_scale=0.7)(*parts, None)
    assert torch.allclose(answer, reference(*parts, hidden=later(), scale=0.7), atol=1e-6)


def test_values_of_another_size() -> None:
    parts = tensors(value_size=5)
    answer = attention(k_channels=D, v_channels=5)(*parts, None)
    assert answer.shape == (S, B, N * 5)
    assert torch.allclose(answer, reference(*parts, hidden=later()), atol=1e-6)


def test_dropout_in_training_alone() -> None:
    parts, part = tensors(), attention()
    part.dropout = 0.5
    assert not torch.allclose(part(*parts, None), reference(*parts, hidden=later()), atol=1e-2)
    part.eval()
    assert torch.allclose(part(*parts, None), reference(*parts, hidden=later()), atol=1e-6)


@pytest.mark.parametrize("extra", [{"packed_seq_params": object()}, {"qr": torch.ones(1)}])
def test_what_it_does_not_take(extra: dict[str, Any]) -> None:
    with pytest.raises(ModelwrightError, match=r"^`SdpaCoreAttention` .*packed"):
        attention()(*tensors(), None, **extra)


def test_an_extra_argument_that_is_none() -> None:
    parts = tensors()
    assert torch.equal(attention()(*parts, None, qr=None), attention()(*parts, None))


def test_it_fits_the_slot() -> None:
    check_conformance(CoreAttentionBuilder, SdpaCoreAttention)
