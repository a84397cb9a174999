"""What a run needs at least, compared with built models; and what cannot fit is refused within seconds."""

import pytest

from modelwright.config import (
    MegatronDDP,
    ModelConfig,
    Parallelism,
    RunConfig,
    TorchFSDP2,
    config_class,
    register_config,
    replace,
)
from modelwright.protocols import ModelwrightError
from modelwright.training import check_memory, inference_bytes, training_bytes
from packages.training.tests.tiny import bigram_run
from tests.messages import facts


@register_config
@config_class
class MemoryToyConfig(ModelConfig):
    """A family that is no decoder."""

    kind = "memory-toy"


def test_ranks_alone_need_memory() -> None:
    run = RunConfig(model=MemoryToyConfig())
    one, many = (training_bytes(replace(run, parallelism=Parallelism(data=data))) for data in (1, 2))
    assert many == 2 * one


def test_a_run_that_cannot_fit_is_refused() -> None:
    run = replace(bigram_run(global_batch=200_000), parallelism=Parallelism(data=100_000))
    with pytest.raises(ModelwrightError) as caught:
        check_memory(training_bytes(run), "a run of 100,000 ranks", option="--no-memory-check")
    assert "`--no-memory-check`" in facts(caught.value)


def test_a_small_one_is_not_worth_a_word() -> None:
    assert check_memory(1000, "it", option="--x") is None


def test_a_family_that_is_no_decoder_needs_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunConfig(model=MemoryToyConfig())
    assert training_bytes(run) == inference_bytes(run) > 0
    assert {training_bytes(replace(run, wrap=wrap)) for wrap in (MegatronDDP(), TorchFSDP2())} == {training_bytes(run)}
