"""The Mamba mixer alone, on one rank: packed sequences, its options, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig

from modelwright.layers import MambaKernels, MambaMixer, MambaMixerSpec, MambaOptions, find_kernels, torch_kernels
from modelwright.protocols import ConformanceError, MambaMixerBuilder, ModelwrightError, check_conformance
from tests.messages import facts


def engine(**sizes: int) -> TransformerConfig:
    given = {"mamba_state_dim": 8, "mamba_head_dim": 4, "mamba_num_groups": 2, "mamba_num_heads": 4, **sizes}
    return TransformerConfig(num_layers=1, hidden_size=16, num_attention_heads=1, **given)


def build(groups: ProcessGroupCollection, spec: MambaMixerSpec | None = None, **sizes: int) -> MambaMixer:
    torch.manual_seed(0)
    spec = spec or MambaMixerSpec(options=MambaOptions(chunk_size=4))
    return spec(engine(**sizes), d_model=16, layer_number=1, pg_collection=groups, pp_layer_offset=0, name=None)


def mix(mixer: MambaMixer, hidden_SBH: torch.Tensor, packed: PackedSeqParams | None = None) -> torch.Tensor:
    return mixer(hidden_SBH, inference_context=None, packed_seq_params=packed)[0]


def test_packed_sequences_do_not_see_each_other(groups: ProcessGroupCollection) -> None:
    """Boundaries inside a chunk, at its end, and a sequence shorter than the convolution."""
    mixer, hidden_SBH = build(groups), torch.randn(13, 1, 16)
    lengths = [5, 3, 2, 3]
    seq_idx = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None].to(torch.int32)
    packed = mix(mixer, hidden_SBH, PackedSeqParams(seq_idx=seq_idx))
    alone = torch.cat([mix(mixer, part) for part in hidden_SBH.split(lengths)])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(packed, mix(mixer, hidden_SBH), atol=1e-3)


def test_the_chunk_size_does_not_change_what_comes_out(groups: ProcessGroupCollection) -> None:
    hidden_SBH = torch.randn(13, 2, 16)
    mixers = [build(groups, MambaMixerSpec(options=MambaOptions(chunk_size=size))) for size in (1, 4, 64)]
    for mixer in mixers[1:]:
        mixer.load_state_dict(mixers[0].state_dict())
    first, *others = (mix(mixer, hidden_SBH) for mixer in mixers)
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-6)


def test_initial_values_lie_where_the_options_say(groups: ProcessGroupCollection) -> None:
    """Dao and Gu, section 7 and the engine's defaults: the step sizes and decays are what softplus and exp make."""
    options = MambaOptions(a_init=(2.0, 3.0), dt_init=(0.01, 0.02), conv_init=0.125)
    mixer = build(groups, MambaMixerSpec(options=options), mamba_num_heads=64, mamba_head_dim=2)
    steps, decays = torch.nn.functional.softplus(mixer.dt_bias), mixer.A_log.exp()
    assert 0.0099 < steps.min() < 0.012 < 0.018 < steps.max() < 0.0201
    assert 1.999 < decays.min() < 2.1 < 2.9 < decays.max() < 3.001
    assert 0.1 < mixer.conv1d_weight.abs().max() <= 0.125
    assert mixer.A_log.dtype == mixer.D.dtype == torch.float32
    assert (mixer.D == 1).all()


def test_groups_that_do_not_divide_the_heads(groups: ProcessGroupCollection) -> None:
    with pytest.raises(ModelwrightError) as caught:
        build(groups, mamba_num_groups=3)
    assert facts(caught.value) == "`mamba_num_groups` `mamba_num_heads` 3 4"


def test_a_kernel_that_does_not_fit_is_refused_when_it_is_chosen() -> None:
    def scan(x: torch.Tensor, dt: torch.Tensor) -> torch.Tensor:
        return x

    wrong: Any = scan
    with pytest.raises(ConformanceError, match="`scan`"):
        MambaKernels(scan=wrong)


def test_the_spec_fits_the_slot_and_parts_are_swapped(groups: ProcessGroupCollection) -> None:
    check_conformance(MambaMixerBuilder, MambaMixerSpec())
    calls: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return torch_kernels().scan(*args, **options)

    spec = MambaMixerSpec(kernels=replace(torch_kernels(), scan=counting))
    mix(build(groups, spec), torch.randn(4, 1, 16))
    assert calls == [1]


def test_an_unknown_name_of_kernels() -> None:
    with pytest.raises(ModelwrightError) as caught:
        find_kernels("tourch")
    assert facts(caught.value) == "`kernels` mamba_ssm 'tourch' `torch`"
