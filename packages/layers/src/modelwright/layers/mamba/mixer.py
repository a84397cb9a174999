"""Mamba-2 mixer: projection, causal convolution, scan, gated norm, projection; each of them is a slot.

Dao and Gu 2024, "Transformers are SSMs", arXiv 2405.21060, section 7. It replaces Megatron-Core's `MambaMixer`, which
needs CUDA kernels. Names, shapes, initial distributions and sharded state dict are the same, so a checkpoint of one
loads in the other.

The tensor ranks split heads and groups: `in_proj` joins z, x, B, C and dt, each split by itself. The context ranks then
split the heads of a tensor rank (`heads_over_context.py`).
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast, override

import torch
from megatron.core.ssm.utils import _split_tensor_factory  # pyright: ignore[reportPrivateUsage]
from megatron.core.transformer import utils
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from modelwright.distributed import UniformInit
from modelwright.layers.mamba.heads_over_context import HeadsOverContext, Sizes
from modelwright.layers.mamba.kernels import MambaKernels
from modelwright.layers.mamba.mixer_options import MambaOptions
from modelwright.layers.parameter_marks import mark_partition_sizes, mark_split
from modelwright.protocols import GatedNormInterface, InProjBuilder, ModelwrightError, OutProjBuilder

if TYPE_CHECKING:
    from megatron.core.inference.contexts import BaseInferenceContext, StaticInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig

type _InitMethod = Callable[[Tensor], None]

_sharding: Any = utils  # not typed
# Names in a checkpoint: the engine keeps those from when the convolution was a separate module.
_CHECKPOINT_NAMES = {"conv1d_weight": "conv1d.weight", "conv1d_bias": "conv1d.bias"}
_PROJECTED = ("z", "x", "B", "C", "dt")
_CONVOLVED = ("x", "B", "C")


class MambaMixer(MegatronModule):
    """Mixer of one layer; fills the slot `mixer`.

    Seam: stores the states of generation in the engine's `key_value_memory_dict`, and describes shards with its private
    `_split_tensor_factory`. `packages/layers/tests/mamba/test_mixer.py` fails when the engine changes either.

    Args:
        config: The engine's config; its sizes are `mamba_state_dim`, `mamba_head_dim`, `mamba_num_groups` and
            `mamba_num_heads` (None: twice the hidden size over the head size).
        d_model: Hidden size, `h`.
        layer_number: Number of the layer in the model, from 1.
        pg_collection: Process groups of this rank; `tp` and `cp` split the heads.
        in_proj: Builder of the projection to z, x, B, C and dt.
        out_proj: Builder of the projection of the heads back to `h`.
        kernels: Convolution, scan and gated norm.
        options: Options that the engine's config does not have.
        name: Dotted name of this module in the model, or None.

    Raises:
        ModelwrightError: A size does not divide another; the message has the engine's field names.
    """

    def __init__(
        self,
        config: "TransformerConfig",
        /,
        *,
        d_model: int,
        layer_number: int,
        pg_collection: "ProcessGroupCollection",
        in_proj: InProjBuilder,
        out_proj: OutProjBuilder,
        kernels: MambaKernels,
        options: MambaOptions,
        name: str | None,
    ) -> None:
        super().__init__(config)
        self.layer_number, self.options, self.kernels = layer_number, options, kernels
        self.tp_group = pg_collection.tp
        self.state_size, self.head_dim = config.mamba_state_dim, config.mamba_head_dim
        heads = config.mamba_num_heads or 2 * d_model // self.head_dim
        ranks = pg_collection.tp.size()
        self._check(heads, config.mamba_num_groups, ranks, pg_collection.cp.size())
        full = Sizes(heads * self.head_dim, config.mamba_num_groups * self.state_size, heads)
        self.local = Sizes(full.inner // ranks, full.states // ranks, heads // ranks)
        self.context = HeadsOverContext(self.local, state_size=self.state_size, cp_group=pg_collection.cp)
        shared: dict[str, Any] = {"config": config, "bias": options.bias, "is_expert": False, "tp_group": self.tp_group}
        self.in_proj = in_proj(
            d_model, sum(full.projected), init_method=cast("_InitMethod", config.init_method), gather_output=False,
            skip_bias_add=False, tp_comm_buffer_name="fc1", name=name and f"{name}.in_proj", **shared,
        )  # fmt: skip
        _mark_projected(cast("nn.Module", self.in_proj), self.local.projected)
        self._make_parameters(config)
        if options.gated_norm:
            self.norm = self._gated_norm(config)
        self.out_proj = out_proj(
            full.inner, d_model, init_method=cast("_InitMethod", config.output_layer_init_method),
            input_is_parallel=True, skip_bias_add=True, tp_comm_buffer_name="fc2", name=name and f"{name}.out_proj",
            **shared,
        )  # fmt: skip

    def _gated_norm(self, config: "TransformerConfig") -> GatedNormInterface:
        """Build the norm of this rank's groups, and mark its weight as split."""
        groups = config.mamba_num_groups // self.tp_group.size()
        norm = self.kernels.norm(
            self.local.inner,
            eps=1e-5,
            group_size=self.local.inner // groups,
            norm_before_gate=self.options.norm_before_gate,
            device=torch.cuda.current_device(),
            dtype=config.params_dtype,
        )
        mark_split(norm.weight)
        setattr(norm, "tp_group", self.tp_group)  # noqa: B010 - read by the norm's sharded_state_dict
        return norm

    def _check(self, heads: int, groups: int, tensor: int, context: int) -> None:
        """Refuse sizes that do not divide. The config of a family refuses them earlier, by its own field names."""
        rules = [
            ("`mamba_num_groups` must divide `mamba_num_heads`", groups, heads),
            ("The tensor ranks must divide `mamba_num_groups`", tensor, groups),
            ("The tensor × context ranks must divide `mamba_num_heads`", tensor * context, heads),
        ]
        local = groups // tensor
        if local and context % local:
            rules.append(("The context ranks must divide `mamba_num_groups` of a tensor rank", context, local))
        for rule, divisor, number in rules:
            if number % divisor:
                raise ModelwrightError(f"{rule}, but {divisor} does not divide {number}; change one of them.")

    def _make_parameters(self, config: "TransformerConfig") -> None:
        """Make the parameters of convolution and scan, with the initial distributions of the engine's mixer."""
        options, channels = self.options, sum(self.local.convolved)
        bound = 1 / math.sqrt(options.conv_width)
        weight_bound = bound if options.conv_init is None else options.conv_init
        low, high = (math.log(limit) for limit in options.dt_init)
        floor = options.dt_init_floor
        self.conv1d_weight = _parameter(config.params_dtype, channels, 1, options.conv_width)
        UniformInit(-weight_bound, weight_bound)(self.conv1d_weight)
        self.conv1d_bias: nn.Parameter | None = None
        if options.conv_bias:
            self.conv1d_bias = _parameter(config.params_dtype, channels)
            UniformInit(-bound, bound)(self.conv1d_bias)
        for parameter in (self.conv1d_weight, *([] if self.conv1d_bias is None else [self.conv1d_bias])):
            mark_partition_sizes(parameter, self.local.convolved)
        self.dt_bias = _parameter(config.params_dtype, self.local.heads)
        UniformInit(low, high, then=lambda log: _before_softplus(log.exp().clamp(min=floor)))(self.dt_bias)
        self.A_log = _parameter(torch.float32, self.local.heads)
        UniformInit(*options.a_init, then=torch.log)(self.A_log)
        channels_of_d = self.local.inner if options.d_per_channel else self.local.heads
        self.D = nn.Parameter(torch.ones(channels_of_d, device=torch.cuda.current_device()))
        mark_split(self.D)

    @override
    def forward(
        self,
        hidden_SBH: Tensor,
        /,
        *,
        inference_context: "BaseInferenceContext | None" = None,
        packed_seq_params: "PackedSeqParams | None" = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Mix positions.

        Args:
            hidden_SBH: `[s, b, h]`, normalized; under sequence parallelism this rank's part of `s`.
            inference_context: Static context of generation, which stores the states. None: no generation.
            packed_seq_params: Its `seq_idx`, `[b, s]`, has the index of the packed sequence of each position. None: one
                sequence in each row.

        Returns:
            `[s, b, h]`, and the bias that was not added, `[h]`, or None.
        """
        projected, _ = self.in_proj(hidden_SBH)
        projected = self.context.gather(projected)
        if inference_context is None:
            seq_idx = None if packed_seq_params is None else packed_seq_params.seq_idx
            y, z = self._full_sequence(projected, seq_idx)
        else:
            y, z = self._generated(projected, inference_context)
        y = self._gated(self.context.scatter(y), self.context.scatter(z))
        mixed, bias = self.out_proj(y)
        return mixed, bias

    def _gated(self, y: Tensor, z: Tensor) -> Tensor:
        if self.options.gated_norm:
            normed: Tensor = self.norm(y, z)
            return normed
        return y * nn.functional.silu(z)

    def _full_sequence(
        self, projected_SBP: Tensor, seq_idx: Tensor | None, states: "_States | None" = None
    ) -> tuple[Tensor, Tensor]:
        """Convolve and scan full sequences, and store the last states in `states` if it is given."""
        sizes, d = self.context.sizes, self.head_dim
        z, convolved, dt = torch.split(projected_SBP, [sizes.inner, sum(sizes.convolved), sizes.heads], dim=-1)
        inputs_BCS = convolved.permute(1, 2, 0)
        bias = self.conv1d_bias
        xBC = self.kernels.convolution(
            x=inputs_BCS,
            weight=self.context.of_channels(self.conv1d_weight).squeeze(1),
            bias=None if bias is None else self.context.of_channels(bias),
            activation="silu",
            seq_idx=seq_idx,
        ).mT
        x, B, C = torch.split(xBC, sizes.convolved, dim=-1)
        found = self.kernels.scan(
            _by(x, d),
            dt.transpose(0, 1),
            -self.context.of_heads(self.A_log).float().exp(),
            _by(B, self.state_size),
            _by(C, self.state_size),
            self.options.chunk_size,
            D=self._skip(),
            z=None,
            dt_bias=self.context.of_heads(self.dt_bias).float(),
            dt_softplus=True,
            dt_limit=self.options.dt_limit,
            seq_idx=seq_idx,
            initial_states=None,
            return_final_states=states is not None,
        )
        if isinstance(found, tuple):
            found, last = found
            if states is not None:
                states.keep(inputs_BCS, last)
        return found.flatten(2).transpose(0, 1), z

    def _skip(self) -> Tensor:
        """Return the skip coefficient `D`, `[n]` or `[n, d]`."""
        skip = self.context.of_heads(self.D).float()
        return _by(skip, self.head_dim) if self.options.d_per_channel else skip

    def _generated(self, projected_SBP: Tensor, context: "BaseInferenceContext") -> tuple[Tensor, Tensor]:
        """Process a prompt, or continue from the states that the engine's context stores for this layer."""
        static = cast("StaticInferenceContext", context)
        known: dict[int, _States] = static.key_value_memory_dict
        if self.layer_number not in known:
            known[self.layer_number] = _States.zeros(self, projected_SBP.size(1))
        states = known[self.layer_number]
        if not static.sequence_len_offset:
            return self._full_sequence(projected_SBP, None, states)
        return self._continued(projected_SBP, states)

    def _continued(self, projected_SBP: Tensor, states: "_States") -> tuple[Tensor, Tensor]:
        sizes = self.context.sizes
        z, convolved, dt = torch.split(projected_SBP, [sizes.inner, sum(sizes.convolved), sizes.heads], dim=-1)
        bias, d = self.conv1d_bias, self.head_dim
        xBC = self.kernels.convolution_step(
            convolved.transpose(0, 1).contiguous(),
            states.convolution,
            self.context.of_channels(self.conv1d_weight).squeeze(1),
            None if bias is None else self.context.of_channels(bias),
            "silu",
        )
        x, B, C = torch.split(xBC, sizes.convolved, dim=-1)
        steps = nn.functional.softplus(dt.transpose(0, 1).float() + self.context.of_heads(self.dt_bias).float())
        decay = -self.context.of_heads(self.A_log).float().exp()
        skip = self._skip()
        y = self.kernels.scan_step(
            states.scan,
            _by(x, d),
            steps.clamp(*self.options.dt_limit).unsqueeze(-1).expand(*dt.transpose(0, 1).shape, d),
            decay.view(-1, 1, 1).expand(-1, d, self.state_size),
            _by(B, self.state_size),
            _by(C, self.state_size),
            skip if skip.dim() == 2 else skip.unsqueeze(-1).expand(-1, d),
            z=None,
            dt_bias=None,
            dt_softplus=False,
        )
        return y.flatten(2).transpose(0, 1), z

    def mamba_state_shapes_per_request(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shapes of the states of one sequence.

        Returns:
            Shape of the convolution's state, `[channels, width]`, and of the scan's, `[n, d, state]`.
        """
        sizes = self.context.sizes
        return (sum(sizes.convolved), self.options.conv_width), (sizes.heads, self.head_dim, self.state_size)

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the sharded state dict, the same as that of the engine's mixer.

        Args:
            prefix: Prefix of the names.
            sharded_offsets: Offsets in dims before those of the parameters.
            metadata: Metadata of the engine.

        Returns:
            Sharded tensors by name; joined parameters are split into their parts.
        """
        found = _sharding.ensure_metadata_has_dp_cp_group(metadata)
        own: dict[str, Any] = {}
        self._save_to_state_dict(own, "", keep_vars=True)
        sharded: dict[str, Any] = _sharding.make_sharded_tensors_for_checkpoint(
            own, prefix, dict.fromkeys(own, 0), sharded_offsets,
            tp_group=self.tp_group, dp_cp_group=found["dp_cp_group"],
        )  # fmt: skip
        for name, module in self.named_children():
            sharded |= _sharding.sharded_state_dict_default(
                module, f"{prefix}{name}.", sharded_offsets, found, tp_group=self.tp_group
            )
        for name, stored in _CHECKPOINT_NAMES.items():
            if f"{prefix}{name}" in sharded:
                sharded[f"{prefix}{name}"].key = f"{prefix}{stored}"
                _split(sharded, f"{prefix}{name}", self.local.convolved, _CONVOLVED)
        for name in ("in_proj.weight", "in_proj.bias"):
            if f"{prefix}{name}" in sharded:
                _split(sharded, f"{prefix}{name}", self.local.projected, _PROJECTED)
        return sharded


class _States:
    """States of a mixer during generation: the last inputs of the convolution, and the state of the scan."""

    def __init__(self, convolution: Tensor, scan: Tensor) -> None:
        self.convolution = convolution
        """`[b, channels, width]`."""
        self.scan = scan
        """`[b, n, d, state]`, float32."""

    @classmethod
    def zeros(cls, mixer: MambaMixer, batch: int) -> "_States":
        """Return the states before the first token."""
        convolution, scan = mixer.mamba_state_shapes_per_request()
        weight = mixer.conv1d_weight
        return cls(weight.new_zeros(batch, *convolution), weight.new_zeros(batch, *scan, dtype=torch.float32))

    def keep(self, inputs_BCS: Tensor, last: Tensor) -> None:
        """Store the states at the end of a full sequence."""
        width = self.convolution.size(-1)
        seen = nn.functional.pad(inputs_BCS, (width, 0))[..., -width:]
        self.convolution.copy_(seen)
        self.scan.copy_(last)


def _by(part: Tensor, last: int) -> Tensor:
    """Divide the last dim into pieces of size `last`."""
    return part.reshape(*part.shape[:-1], -1, last)


def _parameter(dtype: torch.dtype, *shape: int) -> nn.Parameter:
    """Return an uninitialized parameter that is marked as split along its first dim."""
    parameter = nn.Parameter(torch.empty(*shape, device=torch.cuda.current_device(), dtype=dtype))
    mark_split(parameter)
    return parameter


def _mark_projected(in_proj: nn.Module, sizes: list[int]) -> None:
    """Mark which rows of the projection's parameters belong together."""
    for parameter in in_proj.parameters(recurse=False):
        if parameter.dim() and parameter.size(0) == sum(sizes):
            mark_partition_sizes(parameter, sizes)


def _before_softplus(value: Tensor) -> Tensor:
    """Invert softplus: log(exp(value) - 1), without overflow."""
    return value + torch.log(-torch.expm1(-value))


def _split(sharded: dict[str, Any], name: str, sizes: Sequence[int], parts: Sequence[str]) -> None:
    sharded[name] = _split_tensor_factory(sharded[name], list(sizes), list(parts), 0)
