"""Rows that pad the vocabulary take no part in the loss (Megatron-LM 1754), and are never sampled."""

import pytest
import torch

from modelwright.config import MegatronDDP, Parallelism, RunConfig, TrainConfig, replace
from modelwright.gpt import GPTModelConfig
from modelwright.gpt.hf import llama_map
from modelwright.testing import RankPool, reference_curve
from modelwright.training import Sampling
from tests.integration.jobs import logits, quiet
from tests.integration.test_hf_llama import SHAPE, llama, weights

# Padded from 300 to 384; with a multiple of 1024 a whole tensor rank holds nothing but padding.
UNTIED = replace(SHAPE, vocab_size=300)
CASES = {
    "untied": UNTIED,
    "tied": replace(UNTIED, tie_embeddings=True),
    "a rank of padding": replace(UNTIED, vocab_multiple=1024),
}
LAYOUTS = {"one rank": Parallelism(), "tensor": Parallelism(tensor=2), "pipeline": Parallelism(pipeline=2)}


def loss_and_gradient(
    config: GPTModelConfig, parallelism: Parallelism, whole: dict[str, torch.Tensor], tokens_BS: torch.Tensor
) -> tuple[float, list[float]]:
    """The loss of a model with the given weights, and the largest gradient of each row of this rank's output layer."""
    quiet()
    from modelwright.builders import builder_for
    from modelwright.config import Precision
    from modelwright.distributed import initialize, load_full_state_dict, unwrapped
    from modelwright.training import Batch, run_batch

    groups = initialize(parallelism)
    stages = builder_for(config).build_distributed_models(
        groups, parallelism=parallelism, precision=Precision(), wrap=MegatronDDP()
    )
    load_full_state_dict(stages, whole, groups)
    batch = Batch(tokens_BS[:, :-1].contiguous(), tokens_BS[:, 1:].contiguous())
    loss = run_batch(stages, batch, groups, parallelism, micro_batch=1)
    rows: list[float] = []
    for name, parameter in unwrapped(stages[-1]).named_parameters():
        if (
            name in {"output_layer.weight", "embedding.word_embeddings.weight"}
            and groups.pp.rank() == groups.pp.size() - 1
        ):
            rows = parameter.main_grad.abs().amax(dim=1).tolist()  # type: ignore[attr-defined]
    return loss, rows


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_transformers(two_ranks: RankPool, case: str, layout: str):
    config, parallelism = replace(CASES[case], num_layers=2), LAYOUTS[layout]
    model = llama(config)
    tokens = torch.randint(0, config.vocab_size, (2, 65), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(tokens[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(theirs.flatten(0, 1), tokens[:, 1:].flatten()).item()
    whole = llama_map(config).to_engine(weights(model))
    found = two_ranks.run(loss_and_gradient, config, parallelism, whole, tokens, ranks=parallelism.world_size())
    assert [loss for loss, _ in found] == pytest.approx([expected] * len(found), abs=1e-4)
    rows = [row for _, part in found for row in part]
    assert len(rows) == config.padded_vocab_size
    assert max(rows[: config.vocab_size]) > 0
    assert max(rows[config.vocab_size :], default=0.0) == 0


def test_the_multiple_changes_nothing_that_is_trained(two_ranks: RankPool):
    config = GPTModelConfig(num_layers=2, hidden_size=32, num_attention_heads=4, vocab_size=300, seq_length=32)
    run = RunConfig(
        name="x",
        model=replace(config, vocab_multiple=1),
        train=TrainConfig(steps=3, micro_batch=2, global_batch=4, lr=1e-2),
    )
    curves = [
        reference_curve(two_ranks, replace(run, model=replace(config, vocab_multiple=multiple)))
        for multiple in (1, 512)
    ]
    for one, other in zip(*curves, strict=True):
        assert other.loss == pytest.approx(one.loss, abs=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, abs=1e-5)


@pytest.mark.parametrize("layout", ["one rank", "tensor"])
def test_padding_is_never_sampled(two_ranks: RankPool, layout: str):
    """At a temperature that makes all tokens as likely, and a quarter of the rows are padding."""
    config, parallelism = replace(UNTIED, num_layers=1), LAYOUTS[layout]
    whole = llama_map(config).to_engine(weights(llama(config)))
    found = two_ranks.run(logits, config, parallelism, whole, torch.tensor([[1, 2]]), ranks=parallelism.world_size())
    generator = torch.Generator().manual_seed(1)
    for logits_BSV in found:
        assert logits_BSV.size(-1) == 384
        drawn = {Sampling(temperature=1000.0).choose(logits_BSV[0, -1], generator) for _ in range(2000)}
        assert max(drawn) < 300
        assert len(drawn) > 250
