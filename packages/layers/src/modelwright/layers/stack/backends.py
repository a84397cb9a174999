"""Backends: sets of parts for the generic slots, chosen by name.

The backend `torch` consists of parts of this package and of Megatron-Core, and runs everywhere. The backend `te`
consists of the engine's wrappers of Transformer Engine, and needs that package and a GPU. MLA layers have the parts of
`torch` with both.

`te` computes a norm and the linear after it in one part. The slot of that norm then contains the engine's identity, and
the linear has the weights of the norm. `FUSED_NAMES` gives those weights the names that they have under `torch`. So a
checkpoint of one backend loads in the other, initial values are equal, and name patterns mean the same.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, final

import torch
from megatron.core import tensor_parallel
from megatron.core.extensions import transformer_engine
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.identity_op import IdentityOp

from modelwright.engine import OPTIONAL_PACKAGES
from modelwright.layers.attention.attention_layer import AttentionLayerSpec, SelfAttentionSpec
from modelwright.layers.attention.sdpa import SdpaCoreAttention
from modelwright.layers.mamba.kernels import MambaKernels
from modelwright.layers.mamba.mamba_layer import MambaLayerSpec, MambaMixerSpec
from modelwright.layers.mamba.mixer_options import MambaOptions
from modelwright.layers.mlp.mlp_layer import MlpLayerSpec, MlpSpec
from modelwright.layers.moe.grouped_experts import GroupedExperts
from modelwright.layers.moe.moe_layer import GroupedExpertsSpec, MoeLayerSpec, MoeSpec, SharedExpertsSpec
from modelwright.layers.moe.token_dispatcher import token_dispatcher
from modelwright.layers.norm import TorchNorm
from modelwright.layers.stack.spec import StackSpec
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
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig
    from megatron.core.transformer.enums import AttnMaskType
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from modelwright.protocols import CoreAttentionInterface, InProjBuilder


NAMES = ("torch", "te", "auto")

_log = logging.getLogger(__name__)


class ColumnLinearBuilder(Protocol):
    """Builder of a linear for both `linear_qkv` and `linear_fc1`: as `LinearFc1Builder`, with an optional `stride`."""

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
        """Build the linear; see `LinearFc1Builder` for the arguments."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class Backend:
    """Parts of one backend; the defaults are the backend `torch`."""

    name: str = "torch"
    """Name of the backend: `torch` or `te`."""
    norm: NormBuilder = TorchNorm
    """Norm that is not followed by a linear."""
    norm_before_linear: NormBuilder = TorchNorm
    """Norm before `norm_linear`; the identity where `norm_linear` includes it."""
    norm_linear: ColumnLinearBuilder = ColumnParallelLinear
    """Linear after a norm, which may include the norm; the tensor ranks split its output."""
    column_linear: ColumnLinearBuilder = ColumnParallelLinear
    """Linear without a norm before it; the tensor ranks split its output."""
    row_linear: LinearProjBuilder = RowParallelLinear
    """Linear whose input the tensor ranks split."""
    core_attention: CoreAttentionBuilder = SdpaCoreAttention
    """Softmax attention."""
    experts: ExpertsBuilder = GroupedExperts
    """Experts of one rank."""
    token_dispatcher: TokenDispatcherBuilder | None = token_dispatcher
    """Exchange of tokens between ranks before and after the experts; None: the engine's own."""


TORCH = Backend()


def stack_spec(backend: Backend = TORCH, *, qk_norm: bool = False) -> StackSpec:
    """Return a spec with the parts of a backend in its generic slots.

    Args:
        backend: Backend of the parts.
        qk_norm: True if queries and keys are normalized.

    Returns:
        The spec. Embedding, rotary embedding and output layer are the engine's.
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
    backend: Backend = TORCH, *, kernels: MambaKernels | None = None, options: MambaOptions | None = None
) -> MambaLayerSpec:
    """Return a Mamba-2 layer with the norm and projections of a backend.

    Args:
        backend: Backend of the parts.
        kernels: Convolution, scan and gated norm. None: those in PyTorch.
        options: Options of the mixer that the engine's config does not have. None: the engine's defaults.

    Returns:
        The spec.
    """
    mixer = MambaMixerSpec(
        # Its interface also requires `weight`, which every linear of a backend has.
        in_proj=cast("InProjBuilder", backend.norm_linear),
        out_proj=backend.row_linear,
        kernels=kernels,
        options=options or MambaOptions(),
    )
    return MambaLayerSpec(norm=backend.norm_before_linear, mixer=mixer)


def _moe(backend: Backend) -> MoeSpec:
    """Return the MoE part; the router comes between norm and linears, so its linears include no norm."""
    return MoeSpec(
        token_dispatcher=backend.token_dispatcher,
        experts=backend.experts,
        shared_experts=SharedExpertsSpec(linear_fc1=backend.column_linear, linear_fc2=backend.row_linear),
    )


def find_backend(name: str) -> Backend:
    """Return the backend of a name.

    Args:
        name: `torch`, `te` or `auto`. `auto` is `te` where that can be used, else `torch`, and logs its choice.

    Returns:
        Its parts.

    Raises:
        ModelwrightError: The backend does not exist, or `te` cannot be used here. The message names what is missing.
    """
    if name not in NAMES:
        near = did_you_mean(name, NAMES) or "."
        raise ModelwrightError(f"`backend` must be {', '.join(NAMES[:-1])} or {NAMES[-1]}, but is {name!r}{near}")
    if name == "torch":
        return TORCH
    missing = missing_for_te()
    if name == "auto":
        reason = (
            f"`te` cannot be used: {' and '.join(missing)}" if missing else "Transformer Engine and CUDA are available"
        )
        _log.info("backend auto uses %s, because %s", "torch" if missing else "te", reason)
        return TORCH if missing else _te()
    if missing:
        raise ModelwrightError(
            f"`backend: te` cannot be used here, because {' and '.join(missing)}; use `torch`, which runs everywhere, "
            "or `auto`, which uses `te` where it can."
        )
    return _te()


def missing_for_te() -> list[str]:
    """Return what prevents the use of the backend `te` here, in clauses; empty if it can be used."""
    te = OPTIONAL_PACKAGES["transformer-engine"]
    missing: list[str] = []
    if not te.is_installed:
        missing.append(f"Transformer Engine is not installed ({te.install})")
    elif not transformer_engine.HAVE_TE:
        missing.append(
            "Transformer Engine is installed but the engine cannot import it (`python -c 'import transformer_engine."
            "pytorch'` shows why)"
        )
    if not torch.cuda.is_available():
        missing.append("CUDA is not usable (it needs a GPU and its driver)")
    return missing


def _te_core_attention(
    *,
    config: "TransformerConfig",
    layer_number: int,
    attn_mask_type: "AttnMaskType",
    attention_type: str,
    cp_comm_type: str | None,
    softmax_scale: float | None,
    pg_collection: "ProcessGroupCollection",
) -> "CoreAttentionInterface":
    """Build Transformer Engine's attention, with learned sinks as the backend `torch` has them.

    Transformer Engine starts learned sinks at 0, and does not mark that tensor ranks split them. Initial values would
    differ between the backends, and the norm of the gradient would miss the sinks of all ranks but the first.
    """
    made: Any = transformer_engine.TEDotProductAttention(
        config,
        layer_number,
        attn_mask_type,
        attention_type,
        softmax_scale=softmax_scale,
        cp_comm_type=cp_comm_type,
        pg_collection=pg_collection,
    )
    if config.softmax_type == "learnable":
        cast("Callable[[Tensor], None]", config.init_method)(made.softmax_offset)
        tensor_parallel.set_tensor_model_parallel_attributes(made.softmax_offset, is_parallel=True, dim=0, stride=1)
    return cast("CoreAttentionInterface", made)


def _te() -> Backend:
    """Return the parts of `te`; a function, because without Transformer Engine some of the names are None."""
    return Backend(
        name="te",
        norm=cast("NormBuilder", transformer_engine.TENorm),  # its `__new__` returns a norm of another class
        norm_before_linear=IdentityOp,
        norm_linear=transformer_engine.TELayerNormColumnParallelLinear,
        column_linear=transformer_engine.TEColumnParallelLinear,
        row_linear=transformer_engine.TERowParallelLinear,
        core_attention=_te_core_attention,
        experts=GroupedExpertsSpec(
            linear_fc1=transformer_engine.TEColumnParallelGroupedLinear,
            linear_fc2=transformer_engine.TERowParallelGroupedLinear,
        ),
        token_dispatcher=None,
    )
