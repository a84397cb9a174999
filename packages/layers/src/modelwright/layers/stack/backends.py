"""Backends: which parts fill the generic slots, chosen by name.

`torch` is made of this package's parts and the engine's, and runs anywhere; `te` of Transformer Engine's, through the
engine's wrappers of them, and needs that package and a GPU. Where `te` has a norm and the linear after it in one part,
the slot of the norm holds the engine's identity and the linear holds the norm's weights; `FUSED_NAMES` gives those the
name in the whole model that they have under `torch`, so a checkpoint of one backend loads in the other, initial values
are the same, and patterns of names mean the same.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, final

import torch
from megatron.core.extensions import transformer_engine
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.identity_op import IdentityOp

from modelwright.engine import as_engine
from modelwright.layers.attention.sdpa import SdpaCoreAttention
from modelwright.layers.mamba.kernels import TORCH_KERNELS, MambaKernels
from modelwright.layers.mamba.mamba_layer import MambaLayerSpec, MambaMixerSpec
from modelwright.layers.mamba.mixer import MambaOptions
from modelwright.layers.moe.grouped_experts import GroupedExperts
from modelwright.layers.moe.moe_layer import GroupedExpertsSpec, MoeLayerSpec, MoeSpec, SharedExpertsSpec
from modelwright.layers.moe.token_dispatcher import token_dispatcher
from modelwright.layers.norm import TorchNorm
from modelwright.layers.stack.spec import AttentionLayerSpec, MlpLayerSpec, MlpSpec, SelfAttentionSpec, StackSpec
from modelwright.protocols import (
    CoreAttentionBuilder,
    ExpertsBuilder,
    LinearProjBuilder,
    LinearProjInterface,
    ModelwrightError,
    NormBuilder,
    TokenDispatcherBuilder,
    did_you_mean,
)

if TYPE_CHECKING:
    from megatron.core.transformer import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup

NAMES = ("torch", "te", "auto")
INSTALL = "pip install --no-build-isolation 'modelwright-layers[te]'"

_log = logging.getLogger(__name__)


class ColumnLinearBuilder(Protocol):
    """Makes a linear that fits `linear_qkv` and `linear_fc1`: what `LinearFc1Builder` says, with `stride` optional."""

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: "TransformerConfig",
        init_method: "Callable[[Tensor], None]",
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: "ProcessGroup | None",
        stride: int = 1,
        name: str | None,
    ) -> LinearProjInterface:
        """Build the layer; the arguments are those of `LinearFc1Builder`."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Backend:
    """The parts of one backend; its defaults are the backend `torch`."""

    norm: NormBuilder = TorchNorm
    """A norm that stands alone."""
    norm_before_linear: NormBuilder = TorchNorm
    """What stands in the slot of a norm before `norm_linear`; the identity where the two are one part."""
    norm_linear: ColumnLinearBuilder = ColumnParallelLinear
    """Splits its output over the tensor ranks; follows a norm, or holds it."""
    column_linear: ColumnLinearBuilder = ColumnParallelLinear
    """Splits its output over the tensor ranks; stands alone."""
    row_linear: LinearProjBuilder = RowParallelLinear
    """Splits its input over the tensor ranks."""
    core_attention: CoreAttentionBuilder = SdpaCoreAttention
    """Attends."""
    experts: ExpertsBuilder = GroupedExperts
    """The experts of one rank."""
    token_dispatcher: TokenDispatcherBuilder | None = token_dispatcher
    """Brings tokens to their experts and back; None takes the engine's."""


TORCH = Backend()


def stack_spec(backend: Backend = TORCH, *, qk_norm: bool = False) -> StackSpec:
    """A stack whose generic slots are filled by a backend.

    Args:
        backend: Whose parts.
        qk_norm: Whether queries and keys are normalized.

    Returns:
        The spec; what stands around the stack is the engine's.
    """
    query_norm = backend.norm if qk_norm else None
    attention = SelfAttentionSpec(
        linear_qkv=backend.norm_linear,
        core_attention=backend.core_attention,
        linear_proj=backend.row_linear,
        q_layernorm=query_norm,
        k_layernorm=query_norm,
    )
    return StackSpec(
        attention=AttentionLayerSpec(input_layernorm=backend.norm_before_linear, self_attention=attention),
        mlp=MlpLayerSpec(
            pre_mlp_layernorm=backend.norm_before_linear,
            mlp=MlpSpec(linear_fc1=backend.norm_linear, linear_fc2=backend.row_linear),
        ),
        moe=MoeLayerSpec(pre_mlp_layernorm=backend.norm, mlp=_moe(backend)),
        mamba=mamba_layer_spec(backend),
        final_norm=backend.norm,
    )


def mamba_layer_spec(
    backend: Backend = TORCH, *, kernels: MambaKernels = TORCH_KERNELS, options: MambaOptions | None = None
) -> MambaLayerSpec:
    """A Mamba layer whose norm and projections are filled by a backend.

    Args:
        backend: Whose parts.
        kernels: What convolves, scans and normalizes.
        options: What the mixer is beyond the sizes in the engine's config; the engine's defaults when None.

    Returns:
        The spec.
    """
    mixer = MambaMixerSpec(
        in_proj=as_engine(backend.norm_linear),
        out_proj=as_engine(backend.row_linear),
        kernels=kernels,
        options=options or MambaOptions(),
    )
    return MambaLayerSpec(norm=backend.norm_before_linear, mixer=mixer)


def _moe(backend: Backend) -> MoeSpec:
    """Behind a router there is no norm to hold, so its linears are plain."""
    return MoeSpec(
        token_dispatcher=backend.token_dispatcher,
        experts=backend.experts,
        shared_experts=SharedExpertsSpec(linear_fc1=backend.column_linear, linear_fc2=backend.row_linear),
    )


def find_backend(name: str) -> Backend:
    """The backend of a name.

    Args:
        name: `torch`, `te`, or `auto`, which is `te` where that can be used and says in the log what it took.

    Returns:
        Its parts.

    Raises:
        ModelwrightError: There is no such backend, or `te` cannot be used here; says what is missing.
    """
    if name not in NAMES:
        near = did_you_mean(name, NAMES) or "."
        raise ModelwrightError(f"`backend` must be {', '.join(NAMES[:-1])} or {NAMES[-1]}, but is {name!r}{near}")
    if name == "torch":
        return TORCH
    missing = missing_for_te()
    if name == "auto":
        reason = f"`te` cannot be used: {' and '.join(missing)}" if missing else "Transformer Engine and CUDA are there"
        _log.info("backend auto takes %s, because %s", "torch" if missing else "te", reason)
        return TORCH if missing else _te()
    if missing:
        raise ModelwrightError(
            f"`backend: te` cannot be used here, because {' and '.join(missing)}; use `torch`, which runs anywhere, or "
            "`auto`, which takes `te` where it can be used."
        )
    return _te()


def missing_for_te() -> list[str]:
    """What keeps the backend `te` from being used here, in clauses; nothing if it can be used."""
    missing: list[str] = []
    if find_spec("transformer_engine") is None:
        missing.append(f"Transformer Engine is not installed ({INSTALL})")
    elif not transformer_engine.HAVE_TE:
        missing.append(
            "Transformer Engine is installed but the engine cannot import it (`python -c 'import transformer_engine."
            "pytorch'` says why)"
        )
    if not torch.cuda.is_available():
        missing.append("CUDA is not usable (it needs a GPU and its driver)")
    return missing


def _te() -> Backend:
    """Only here, because without Transformer Engine these are no classes."""
    return Backend(
        norm=as_engine(transformer_engine.TENorm),
        norm_before_linear=as_engine(IdentityOp),
        norm_linear=as_engine(transformer_engine.TELayerNormColumnParallelLinear),
        column_linear=as_engine(transformer_engine.TEColumnParallelLinear),
        row_linear=as_engine(transformer_engine.TERowParallelLinear),
        core_attention=as_engine(transformer_engine.TEDotProductAttention),
        experts=GroupedExpertsSpec(
            linear_fc1=as_engine(transformer_engine.TEColumnParallelGroupedLinear),
            linear_fc2=as_engine(transformer_engine.TERowParallelGroupedLinear),
        ),
        token_dispatcher=None,
    )
