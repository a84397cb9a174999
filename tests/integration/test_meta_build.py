"""A model built on the meta device is the model that is built directly, on every layout, bit for bit."""

import hashlib
from typing import TYPE_CHECKING

import pytest

from modelwright.config import MegatronDDP, NoWrap, Parallelism, Precision, TorchFSDP2, Wrap
from modelwright.gpt import GPTModelConfig
from modelwright.testing import RankPool

if TYPE_CHECKING:
    from torch import nn

MODEL = GPTModelConfig(
    num_layers=4, hidden_size=16, num_attention_heads=2, vocab_size=32, seq_length=8, tie_embeddings=True, qk_norm=True
)


def digest(stages: "list[nn.Module]") -> dict[str, tuple[str, dict[str, str]]]:
    """Every parameter and buffer by name: a hash of its bits, and the attributes that the engine reads."""
    import torch

    from modelwright.distributed import unwrapped

    found: dict[str, tuple[str, dict[str, str]]] = {}
    for index, stage in enumerate(map(unwrapped, stages)):
        for name, value in (*stage.named_parameters(remove_duplicate=False), *stage.named_buffers()):
            local = getattr(value, "_local_tensor", value).detach().contiguous().view(-1).view(torch.uint8)
            attributes = {name: repr(held) for name, held in vars(value).items() if isinstance(held, int | bool | str)}
            found[f"{index}.{name}"] = hashlib.sha256(local.numpy().tobytes()).hexdigest(), attributes
    return found


def compare(parallelism: Parallelism, precision: Precision, wrap: Wrap) -> tuple[int, list[str], float]:
    """Return the number of tensors, the names of those that differ, and the largest difference of two outputs."""
    import torch

    from modelwright.distributed import initialize, unwrapped
    from modelwright.gpt import GPTModelBuilder

    groups = initialize(parallelism)
    options = {"parallelism": parallelism, "precision": precision, "wrap": wrap}
    direct, meta = (
        GPTModelBuilder(MODEL, meta=on_meta).build_distributed_models(groups, **options)  # type: ignore[arg-type]
        for on_meta in (False, True)
    )
    assert not any(p.is_meta for stage in map(unwrapped, meta) for p in (*stage.parameters(), *stage.buffers()))
    expected, found = digest(direct), digest(meta)
    apart = 0.0
    if parallelism.pipeline == 1:
        tokens = torch.arange(8)[None]
        outputs = [stages[0](tokens, tokens, None) for stages in (direct, meta)]
        apart = float((outputs[0] - outputs[1]).abs().max())
    return len(expected), sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n)), apart


@pytest.mark.parametrize(
    ("parallelism", "precision", "wrap"),
    [
        (Parallelism(tensor=2, sequence=True), Precision(), NoWrap()),
        (Parallelism(tensor=2), Precision(params="bfloat16", keep_float32=("*norm*",)), MegatronDDP()),
        (Parallelism(pipeline=2), Precision(), MegatronDDP()),
        (Parallelism(pipeline=2, virtual_pipeline=2), Precision(), NoWrap()),
        (Parallelism(data=2), Precision(), TorchFSDP2()),
    ],
    ids=["tensor", "bfloat16", "pipeline", "virtual", "fsdp2"],
)
def test_every_bit_is_equal(two_ranks: RankPool, parallelism: Parallelism, precision: Precision, wrap: Wrap) -> None:
    for tensors, differing, apart in two_ranks.run(compare, parallelism, precision, wrap):
        assert tensors > 8
        assert differing == []
        assert apart == 0.0
