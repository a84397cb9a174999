"""`MambaModelBuilder` builds the engine's model that a config describes: names, shapes, values, parts, one forward."""

import dataclasses
import logging
import math
from dataclasses import replace as with_parts
from typing import Any

import pytest
import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from megatron.core.process_groups_config import ProcessGroupCollection
from torch import Tensor, nn

from modelwright.builders import builder_for
from modelwright.config import NoWrap, Parallelism, Precision, fingerprint, replace
from modelwright.distributed import BuildError, total_parameters
from modelwright.layers import MambaKernels, MambaLayerSpec, MambaMixer, MambaOptions, ssd_scan, torch_kernels
from modelwright.mamba import MambaModelBuilder, MambaModelConfig, mamba_stack
from modelwright.protocols import ConformanceError, MambaMixerBuilder, ModelwrightError
from packages.mamba.tests.test_presets import parameters
from tests.messages import facts

MAMBA = MambaModelConfig(
    num_layers=2,
    hidden_size=16,
    mamba_state_dim=4,
    mamba_head_dim=8,
    mamba_num_groups=2,
    chunk_size=4,
    vocab_size=60,
    vocab_multiple=32,
    seq_length=8,
)
HYBRID = replace(MAMBA, num_layers=None, pattern="M*-", num_attention_heads=4, ffn_hidden_size=24)
ONE_RANK: dict[str, Any] = {"parallelism": Parallelism(), "precision": Precision(), "wrap": NoWrap()}
MAMBA_LAYER = {
    "decoder.layers.{i}.norm.weight": (16,),
    # z, x, B, C, dt of 4 heads of 8 channels and 2 groups of 4 states.
    "decoder.layers.{i}.mixer.in_proj.weight": (2 * 32 + 2 * 8 + 4, 16),
    "decoder.layers.{i}.mixer.conv1d_weight": (32 + 2 * 8, 1, 4),
    "decoder.layers.{i}.mixer.conv1d_bias": (32 + 2 * 8,),
    "decoder.layers.{i}.mixer.dt_bias": (4,),
    "decoder.layers.{i}.mixer.A_log": (4,),
    "decoder.layers.{i}.mixer.D": (4,),
    "decoder.layers.{i}.mixer.norm.weight": (32,),
    "decoder.layers.{i}.mixer.out_proj.weight": (16, 32),
}
ATTENTION_LAYER = {
    "decoder.layers.{i}.input_layernorm.weight": (16,),
    "decoder.layers.{i}.self_attention.linear_qkv.weight": (48, 16),
    "decoder.layers.{i}.self_attention.linear_proj.weight": (16, 16),
}
MLP_LAYER = {
    "decoder.layers.{i}.pre_mlp_layernorm.weight": (16,),
    "decoder.layers.{i}.mlp.linear_fc1.weight": (48, 16),
    "decoder.layers.{i}.mlp.linear_fc2.weight": (16, 24),
}
ENDS = {
    "embedding.word_embeddings.weight": (64, 16),
    "decoder.final_norm.weight": (16,),
    "output_layer.weight": (64, 16),
}


def layers(*of: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of layers in order, and of the parts around them."""
    return {name.format(i=i): shape for i, layer in enumerate(of) for name, shape in layer.items()} | ENDS


def build(groups: ProcessGroupCollection, config: MambaModelConfig, seed: int = 1, **options: Any) -> HybridModel:
    (stage,) = MambaModelBuilder(config, **options).build_distributed_models(groups, **ONE_RANK, seed=seed)
    assert isinstance(stage, HybridModel)
    return stage


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def losses(model: HybridModel, config: MambaModelConfig) -> Tensor:
    """[b, s]."""
    torch.manual_seed(0)
    tokens = torch.randint(config.vocab_size, (2, config.seq_length + 1))
    positions = torch.arange(config.seq_length).expand(2, -1)
    answer: Tensor = model(
        input_ids=tokens[:, :-1], position_ids=positions, attention_mask=None, labels=tokens[:, 1:].contiguous()
    )
    return answer


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (MAMBA, layers(MAMBA_LAYER, MAMBA_LAYER)),
        (HYBRID, layers(MAMBA_LAYER, ATTENTION_LAYER, MLP_LAYER)),
    ],
    ids=["mamba", "hybrid"],
)
def test_names_and_shapes(
    groups: ProcessGroupCollection, config: MambaModelConfig, expected: dict[str, tuple[int, ...]]
) -> None:
    assert shapes(build(groups, config)) == expected
    assert shapes(MambaModelBuilder(config).build_model(groups)) == expected


@pytest.mark.parametrize(
    "config",
    [
        MAMBA,
        HYBRID,
        replace(MAMBA, tie_embeddings=True, mamba_bias=True, conv_bias=False),
        replace(MAMBA, d_per_channel=True, gated_norm=False, conv_width=3),
        replace(MAMBA, mamba_num_heads=6, mamba_num_groups=3),
        MambaModelConfig(pattern="--", hidden_size=16, ffn_hidden_size=24, vocab_size=40, seq_length=8),
    ],
)
def test_the_number_of_parameters(groups: ProcessGroupCollection, config: MambaModelConfig) -> None:
    assert total_parameters([build(groups, config)]) == parameters(config)


@pytest.mark.parametrize(
    "config",
    [
        MAMBA,
        HYBRID,
        replace(HYBRID, position_embedding="rope"),
        replace(MAMBA, position_embedding="learned", norm_before_gate=True, dt_limit=(0.01, 0.05)),
    ],
    ids=["mamba", "hybrid", "rope", "options"],
)
def test_the_first_loss_is_that_of_guessing(groups: ProcessGroupCollection, config: MambaModelConfig) -> None:
    """An untrained model knows nothing: the loss is the logarithm of the vocabulary."""
    model = build(groups, config)
    loss = losses(model, config)
    assert loss.shape == (2, 8)
    assert loss.mean().item() == pytest.approx(math.log(config.vocab_size), abs=0.05)
    loss.mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_future_is_hidden(groups: ProcessGroupCollection) -> None:
    model = build(groups, replace(HYBRID, init_std=0.5))
    tokens, positions = torch.arange(8)[None], torch.arange(8)[None]
    changed = tokens.clone()
    changed[0, 5] = 40
    one, other = (model(input_ids=given, position_ids=positions, attention_mask=None)[0] for given in (tokens, changed))
    assert torch.allclose(one[:5], other[:5], atol=1e-5)
    assert not torch.allclose(one[5:], other[5:], atol=1e-4)


def test_initial_values_are_in_their_ranges(groups: ProcessGroupCollection) -> None:
    config = replace(MAMBA, mamba_head_dim=1, mamba_num_groups=2, a_init_range=(2.0, 3.0), dt_init_range=(0.01, 0.02))
    mixer = build(groups, config).decoder.layers[1].mixer
    assert isinstance(mixer, MambaMixer)
    decay, step = mixer.A_log.exp(), nn.functional.softplus(mixer.dt_bias)
    for values, low, high in ((decay, 2.0, 3.0), (step, 0.01, 0.02)):
        assert low - 1e-5 <= values.min() < values.max() <= high + 1e-5
    assert torch.equal(mixer.D, torch.ones(32))
    assert mixer.conv1d_weight.abs().max() <= 0.5


def test_the_mixer_is_told_all_of_the_config() -> None:
    options = {
        "conv_width": 3,
        "conv_bias": False,
        "conv_init": 0.25,
        "chunk_size": 8,
        "gated_norm": False,
        "norm_before_gate": True,
        "d_per_channel": True,
        "dt_init_floor": 1e-5,
        "dt_limit": (0.5, 2.0),
    }
    config = replace(MAMBA, mamba_bias=True, a_init_range=(2.0, 3.0), dt_init_range=(0.01, 0.2), **options)
    mixer: Any = mamba_stack(config).mamba
    given = dataclasses.asdict(mixer.mixer.options)
    assert given == {**options, "bias": True, "a_init": (2.0, 3.0), "dt_init": (0.01, 0.2)}
    assert not {name for name, value in dataclasses.asdict(MambaOptions()).items() if given[name] == value}


def test_how_initial_values_are_spread(groups: ProcessGroupCollection) -> None:
    """Check 1,024 heads: even logarithms of the steps, convolution around zero, scaled output projection."""
    wide = replace(MAMBA, hidden_size=512, mamba_head_dim=4, num_layers=4, conv_init=0.125)
    (model,) = MambaModelBuilder(wide).build_distributed_models(groups, **ONE_RANK)
    found = {name: value.detach().flatten() for name, value in model.named_parameters()}

    def every(name: str) -> Tensor:
        return torch.cat([value for path, value in found.items() if path.endswith(f"mixer.{name}")])

    steps = nn.functional.softplus(every("dt_bias")).log()
    low, high = (math.log(step) for step in wide.dt_init_range)
    assert steps.mean().item() == pytest.approx((low + high) / 2, abs=0.15)
    assert steps.std().item() == pytest.approx((high - low) / math.sqrt(12), abs=0.1)
    for name, bound in (("conv1d_weight", 0.125), ("conv1d_bias", 0.5)):
        assert every(name).mean().item() == pytest.approx(0, abs=0.05 * bound)
        assert every(name).std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    stage: Any = model
    for name, draw in (("in_proj", "init_method"), ("out_proj", "output_layer_init_method")):
        drawn = torch.empty(100_000)
        getattr(stage.config, draw)(drawn)
        assert every(f"{name}.weight").std().item() == pytest.approx(drawn.std().item(), rel=0.05)


def test_no_step_starts_below_the_floor(groups: ProcessGroupCollection) -> None:
    floored = replace(MAMBA, hidden_size=256, mamba_head_dim=4, dt_init_floor=0.01)
    (model,) = MambaModelBuilder(floored).build_distributed_models(groups, **ONE_RANK)
    biases = [value.detach() for name, value in model.named_parameters() if name.endswith("dt_bias")]
    steps = nn.functional.softplus(torch.cat(biases))
    assert steps.min().item() == pytest.approx(0.01, rel=1e-3)
    assert 0.3 < (steps < 0.01001).float().mean().item() < 0.7  # half of the logarithms from 0.001 to 0.1 lie below


def test_the_same_seed_gives_the_same_parameters(groups: ProcessGroupCollection) -> None:
    first, second, other = (dict(build(groups, HYBRID, seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = {name for name in first if not torch.equal(first[name], other[name])}
    assert drawn == {name for name in first if "norm" not in name and not name.endswith(".D")}


@pytest.mark.parametrize("config", [MAMBA, HYBRID], ids=["mamba", "hybrid"])
def test_building_on_the_meta_device_gives_the_same(groups: ProcessGroupCollection, config: MambaModelConfig) -> None:
    direct, meta = (build(groups, config, meta=meta).state_dict() for meta in (False, True))
    assert direct.keys() == meta.keys()
    for name, value in direct.items():
        assert value is meta[name] is None or torch.equal(value, meta[name]), name


def test_building_changes_no_config(groups: ProcessGroupCollection) -> None:
    before = fingerprint(HYBRID)
    build(groups, HYBRID)
    assert fingerprint(HYBRID) == before


def test_the_builder_of_the_kind() -> None:
    assert type(builder_for(MAMBA)) is MambaModelBuilder


def test_a_layout_that_does_not_fit_is_refused_with_the_groups_that_do_not() -> None:
    with pytest.raises(BuildError, match=r"(?s)`tp`.*`mamba_num_groups` .*`tensor`"):
        MambaModelBuilder(MAMBA).build_distributed_models(
            ProcessGroupCollection(), parallelism=Parallelism(tensor=4), precision=Precision(), wrap=NoWrap()
        )


class Averaging(nn.Module):
    """A custom mixer: each position becomes the mean of those up to it, times a learned scale."""

    def __init__(
        self,
        config: Any,
        /,
        *,
        d_model: int,
        layer_number: int,
        pg_collection: Any,
        pp_layer_offset: int,
        name: str | None,
    ) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(d_model))

    def forward(
        self, hidden_SBH: Tensor, /, *, inference_context: Any = None, packed_seq_params: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        counts = torch.arange(1, hidden_SBH.size(0) + 1, device=hidden_SBH.device).view(-1, 1, 1)
        return hidden_SBH.cumsum(0) / counts * self.scale, None


def test_boundaries_mean_nothing_on_one_stage(groups: ProcessGroupCollection) -> None:
    cut, whole = (dict(build(groups, replace(HYBRID, pattern=made)).named_parameters()) for made in ("M*|-", "M*-"))
    assert cut.keys() == whole.keys()
    assert all(torch.equal(cut[name], whole[name]) for name in whole)


def test_a_custom_mixer(groups: ProcessGroupCollection) -> None:
    averaging: MambaMixerBuilder = Averaging
    spec = with_parts(mamba_stack(HYBRID), mamba=MambaLayerSpec(mixer=averaging))
    model = build(groups, HYBRID, spec=spec)
    own = {"decoder.layers.{i}.norm.weight": (16,), "decoder.layers.{i}.mixer.scale": (16,)}
    assert shapes(model) == layers(own, ATTENTION_LAYER, MLP_LAYER)
    losses(model, HYBRID).mean().backward()
    assert model.decoder.layers[0].mixer.scale.grad is not None
    # The family's own spec is as it was.
    assert shapes(build(groups, HYBRID)) == layers(MAMBA_LAYER, ATTENTION_LAYER, MLP_LAYER)


def test_custom_kernels_keep_the_options_of_the_config(groups: ProcessGroupCollection) -> None:
    calls: list[int] = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(given[5])
        return ssd_scan(*given, **options)

    spec = mamba_stack(replace(MAMBA, conv_bias=False), kernels=MambaKernels(scan=counted))
    model = build(groups, replace(MAMBA, conv_bias=False), spec=spec)
    assert model.decoder.layers[0].mixer.conv1d_bias is None
    losses(model, MAMBA)
    assert calls == [MAMBA.chunk_size] * 2


def test_a_mixer_that_does_not_fit_is_refused_when_the_spec_is_made() -> None:
    with pytest.raises(ConformanceError, match="`MambaMixerBuilder`"):
        MambaLayerSpec(mixer=nn.Linear)  # type: ignore[arg-type]  # that is the test


INSTALL = "pip install --no-build-isolation 'modelwright-mamba[kernels]'"
MISSING = (
    f"mamba-ssm and causal-conv1d are not installed ({INSTALL}) and CUDA is not usable (it needs a GPU and its driver)"
)


@pytest.fixture
def neither_packages_nor_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every machine the same."""
    monkeypatch.setattr("modelwright.engine.optional_packages.find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("neither_packages_nor_cuda")
def test_kernels_that_are_not_there_are_refused_before_anything_is_built() -> None:
    with pytest.raises(ModelwrightError) as caught:
        MambaModelBuilder(replace(MAMBA, kernels="mamba_ssm"))
    assert facts(caught.value) == f"`kernels: mamba_ssm` {facts(MISSING)} `torch` `auto` `mamba_ssm`"
    assert not torch.distributed.is_initialized()


def test_a_convolution_that_the_kernels_do_not_have(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("modelwright.engine.optional_packages.find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    reason = "causal-conv1d convolves 2, 3, 4 positions, not the 5 of `conv_width`"
    with pytest.raises(ModelwrightError) as caught:
        mamba_stack(replace(MAMBA, kernels="mamba_ssm", conv_width=5))
    assert facts(caught.value) == f"`kernels: mamba_ssm` {facts(reason)} `torch` `auto` `mamba_ssm`"
    with caplog.at_level(logging.INFO, logger="modelwright"):
        mamba_stack(replace(MAMBA, conv_width=5))
    assert [facts(one) for one in caplog.messages] == [f"`mamba_ssm` {facts(reason)}"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing without a GPU")
def test_latent_experts_need_transformer_engine() -> None:
    latent = replace(HYBRID, pattern="M*E", num_experts=4, top_k=2, expert_latent_size=8)
    with pytest.raises(ModelwrightError, match=r"^`expert_latent_size` "):
        MambaModelBuilder(latent)
    MambaModelBuilder(replace(latent, expert_latent_size=None))


@pytest.mark.usefixtures("neither_packages_nor_cuda")
def test_auto_says_what_it_took(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="modelwright"):
        MambaModelBuilder(MAMBA)
    assert [facts(one) for one in caplog.messages] == [f"`mamba_ssm` {facts(MISSING)}"]


def test_torch_says_nothing(groups: ProcessGroupCollection, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="modelwright.layers"):
        mixer = build(groups, replace(MAMBA, kernels="torch")).decoder.layers[0].mixer
    assert isinstance(mixer, MambaMixer)
    assert mixer.kernels is torch_kernels()
    assert not caplog.messages
