"""The engine's own Mamba mixer on the CPU, and ours beside it; what the ranks of `test_engine_mixer` run.

The engine's cannot be made without mamba-ssm and einops. Stand-ins take their place here, and only theirs: our kernels,
which have the arguments of those, and the patterns of einops that the mixer writes. Its parameters, shards and the code
between the kernels are its own.
"""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from modelwright.config import Parallelism, Precision
from modelwright.mamba import MambaModelConfig
from tests.integration.jobs import quiet

MODEL = MambaModelConfig(
    num_layers=1, hidden_size=32, mamba_state_dim=8, mamba_head_dim=8, mamba_num_groups=4, chunk_size=8,
    vocab_size=64, seq_length=16,
)  # fmt: skip


def rearrange(tensor: Tensor, pattern: str, **sizes: int) -> Tensor:
    """The patterns of einops that the engine's mixer writes."""
    patterns: dict[str, Callable[[Tensor], Tensor]] = {
        "l b d -> b l d": lambda x: x.transpose(0, 1),
        "b l d -> l b d": lambda x: x.transpose(0, 1),
        "b l d -> b d l": lambda x: x.transpose(1, 2),
        "b d l -> b l d": lambda x: x.transpose(1, 2),
        "d 1 w -> d w": lambda x: x.squeeze(1),
        "b l (h p) -> b l h p": lambda x: x.unflatten(-1, (-1, sizes["p"])),
        "b l (g n) -> b l g n": lambda x: x.unflatten(-1, (-1, sizes["n"])),
        "b l h p -> l b (h p)": lambda x: x.flatten(-2).transpose(0, 1),
    }
    return patterns[pattern](tensor)


def stand_ins() -> Any:
    """A patch of the engine's module, as long as it is entered."""
    from megatron.core.ssm import mamba_context_parallel, mamba_mixer

    from modelwright.layers import GatedRMSNorm, causal_conv, ssd_scan

    mamba_context_parallel.HAVE_EINOPS = True
    return mock.patch.multiple(
        mamba_mixer, create=True, HAVE_MAMBA_SSM=True, HAVE_EINOPS=True, rearrange=rearrange,
        mamba_chunk_scan_combined=ssd_scan, causal_conv1d_fn=causal_conv, ExtendedRMSNorm=GatedRMSNorm,
    )  # fmt: skip


def mixers(parallelism: Parallelism) -> tuple[Any, Any, Any]:
    """The process groups, the engine's mixer and ours, with initial values that are not the same."""
    from megatron.core.ssm.mamba_mixer import MambaMixer, MambaMixerSubmodules
    from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear

    from modelwright.distributed import initialize
    from modelwright.layers import MambaMixerSpec, MambaOptions, resolve

    quiet()
    groups = initialize(parallelism)
    config = resolve(MODEL, parallelism, Precision())
    config.use_mamba_mem_eff_path = False
    named: dict[str, Any] = {
        "d_model": 32, "layer_number": 1, "pg_collection": groups, "pp_layer_offset": 0, "name": None,
    }  # fmt: skip
    parts = MambaMixerSubmodules(in_proj=ColumnParallelLinear, out_proj=RowParallelLinear)
    engine = functools.partial(MambaMixer, submodules=parts, chunk_size=8)(config, **named)
    ours = MambaMixerSpec(options=MambaOptions(chunk_size=8))(config, **named)
    return groups, engine, ours


def shape_of(parameter: Tensor) -> tuple[Any, ...]:
    attributes = ("tensor_model_parallel", "partition_dim", "partition_sizes")
    return (tuple(parameter.shape), parameter.dtype, *(getattr(parameter, name, None) for name in attributes))


def described(mixer: Any, groups: Any) -> dict[str, tuple[Any, ...]]:
    """Every shard by its name in a checkpoint."""
    from modelwright.distributed import local_shards

    return {
        shard.key: (shard.global_shape, shard.global_offset, tuple(local.shape), shard.replica_id)
        for shard, local in local_shards(mixer, groups)
    }


def compared(parallelism: Parallelism) -> dict[str, tuple[Any, Any]]:
    """The engine's and our parts, by name of the comparison."""
    with stand_ins():
        groups, engine, ours = mixers(parallelism)
        parameters = tuple({name: shape_of(p) for name, p in one.named_parameters()} for one in (engine, ours))
        shards = described(engine, groups), described(ours, groups)
        ours.load_state_dict(engine.state_dict())
        engine.load_state_dict(ours.state_dict())
        hidden_SBH = torch.randn(16, 2, 32, generator=torch.Generator().manual_seed(1))
        outputs = tuple(one(hidden_SBH, inference_context=None, packed_seq_params=None)[0] for one in (engine, ours))
        gradients = tuple(
            torch.autograd.grad(output.square().sum(), list(one.parameters()))
            for one, output in zip((engine, ours), outputs, strict=True)
        )
        return {
            "parameters": (parameters[0], parameters[1]),
            "shards": shards,
            "outputs": (outputs[0].detach(), outputs[1].detach()),
            "gradients": (
                torch.cat([g.flatten() for g in gradients[0]]),
                torch.cat([g.flatten() for g in gradients[1]]),
            ),
        }
