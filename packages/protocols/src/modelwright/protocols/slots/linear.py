"""Protocols of Megatron-Core's linear slots: projections of attention, of the MLP and of Mamba mixers.

`linear_qkv`, `linear_fc1` and `in_proj` split their output over the tensor-parallel group (column parallel).
`linear_proj`, `linear_fc2` and `out_proj` split their input (row parallel). Sizes are those of the unsharded layer; a
part divides them by the size of its group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup


class LinearQkvInterface(Protocol):
    """A built `linear_qkv`. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `SelfAttention.get_query_key_value_tensors`.

        Args:
            hidden_SBH: `[s, b, h]`.

        Returns:
            `[s, b, (n + 2 * query groups) * d / tensor-parallel size]`, and a second value that the engine ignores.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LinearQkvBuilder(Protocol):
    """Builder of `linear_qkv`.

    Call site: `attention.py`, `SelfAttention.__init__`. The engine's own `LinearQkvBuilder` lacks `name`, which that
    call passes.
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        name: str | None,
    ) -> LinearQkvInterface:
        """Build the layer.

        Args:
            input_size: `h`.
            output_size: `(n + 2 * query groups) * d`, plus `n * d` with an output gate.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"qkv"`; other backends ignore it.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LinearProjInterface(Protocol):
    """A built `linear_proj`. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Project. Called by `Attention.forward`.

        Args:
            hidden_SBH: `[s, b, n * d / tensor-parallel size]`.

        Returns:
            `[s, b, h]`, and the bias `[h]` that the caller has to add, or `None`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LinearProjBuilder(Protocol):
    """Builder of `linear_proj`.

    Call site: `attention.py`, `Attention.__init__`. The engine's own `LinearProjBuilder` lacks `name`, which that call
    passes.
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        input_is_parallel: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        name: str | None,
    ) -> LinearProjInterface:
        """Build the layer.

        Args:
            input_size: `n * d`.
            output_size: `h`.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias.
            input_is_parallel: Whether the input is already split over the tensor-parallel group; always true here.
            skip_bias_add: Whether to return the bias instead of adding it; always true.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"proj"`; other backends ignore it.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LinearFc1Interface(Protocol):
    """A built `linear_fc1`. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Project. Called by `MLP.forward`.

        Args:
            hidden_SBH: `[s, b, h]`.

        Returns:
            `[s, b, ffn / tensor-parallel size]`, twice as wide for a gated MLP, and the bias that the caller has to
            add, or `None`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LinearFc1Builder(Protocol):
    """Builder of `linear_fc1`.

    Call site: `mlp.py`, `MLP.__init__`.
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        stride: int,
        name: str | None,
    ) -> LinearFc1Interface:
        """Build the layer.

        Args:
            input_size: `h`.
            output_size: Inner size of the MLP, doubled for a gated MLP.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always true.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc1"`; other backends ignore it.
            tp_group: Tensor-parallel group.
            stride: 2 for a gated MLP (gate and up projection interleaved per shard), else 1.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class LinearFc2Interface(Protocol):
    """A built `linear_fc2`. It must be a `torch.nn.Module`; the engine refuses anything else."""

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Project. Called by `MLP.forward`.

        Args:
            hidden_SBH: `[s, b, ffn / tensor-parallel size]`.

        Returns:
            `[s, b, h]`, and the bias `[h]` that the caller has to add, or `None`.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, Tensor | None]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class LinearFc2Builder(Protocol):
    """Builder of `linear_fc2`.

    Call site: `mlp.py`, `MLP.__init__`.
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        input_is_parallel: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        name: str | None,
    ) -> LinearFc2Interface:
        """Build the layer.

        Args:
            input_size: Inner size of the MLP.
            output_size: `h`.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias.
            input_is_parallel: Whether the input is already split over the tensor-parallel group; always true here.
            skip_bias_add: Whether to return the bias instead of adding it; always true.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc2"`; other backends ignore it.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class InProjInterface(Protocol):
    """A built `in_proj` of a Mamba mixer or a gated delta net."""

    @property
    def weight(self) -> Tensor:
        """Weight `[output size / tensor-parallel size, h]`. A Mamba mixer sets its partition sizes as an attribute."""
        ...

    def forward(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Project. Called by `MambaMixer.forward` and `GatedDeltaNet.forward`.

        Args:
            hidden_SBH: `[s, b, h]`.

        Returns:
            `[s, b, output size / tensor-parallel size]`, and a second value that the engine ignores.
        """
        ...

    def __call__(self, hidden_SBH: Tensor, /) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class InProjBuilder(Protocol):
    """Builder of `in_proj`.

    Call sites: `mamba_mixer.py`, `MambaMixer.__init__`; `gated_delta_net/common.py`, `_GDNBase.__init__` (untyped
    there, through `build_module`).
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        gather_output: bool,
        bias: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        name: str | None,
    ) -> InProjInterface:
        """Build the layer.

        Args:
            input_size: `h`.
            output_size: Sum of the sizes that the mixer splits: z, x, B, C and dt for Mamba; query, key, value, z, beta
                and alpha for a gated delta net. Each of them is split over the tensor-parallel group separately.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            gather_output: Whether to gather the output over the tensor-parallel group; always false here.
            bias: Whether the layer has a bias.
            skip_bias_add: Whether to return the bias instead of adding it; always false.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc1"`.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...


class OutProjInterface(LinearProjInterface, Protocol):
    """A built `out_proj` of a Mamba mixer or a gated delta net, called like the `linear_proj` of attention."""


class OutProjBuilder(Protocol):
    """Builder of `out_proj`.

    Call sites: `mamba_mixer.py`, `MambaMixer.__init__`; `gated_delta_net/common.py`, `_GDNBase.__init__` (untyped
    there, through `build_module`).
    """

    def __call__(
        self,
        input_size: int,
        output_size: int,
        /,
        *,
        config: TransformerConfig,
        init_method: Callable[[Tensor], None],
        bias: bool,
        input_is_parallel: bool,
        skip_bias_add: bool,
        is_expert: bool,
        tp_comm_buffer_name: str,
        tp_group: ProcessGroup | None,
        name: str | None,
    ) -> OutProjInterface:
        """Build the layer.

        Args:
            input_size: Inner size of the mixer.
            output_size: `h`.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias.
            input_is_parallel: Whether the input is already split over the tensor-parallel group; always true here.
            skip_bias_add: Whether to return the bias instead of adding it; always true.
            is_expert: Whether the layer belongs to an expert.
            tp_comm_buffer_name: Name of Transformer Engine's communication buffer, `"fc2"`.
            tp_group: Tensor-parallel group.
            name: Dotted name of this module in the model, or `None`.

        Returns:
            The layer.
        """
        ...
