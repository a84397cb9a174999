"""Protocols of Megatron-Core's stack slot: the layers of one pipeline stage, and the final norm on the last stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelwright.protocols.optional_members import SupportsSetInputTensor

if TYPE_CHECKING:
    from megatron.core.inference.contexts.base_context import BaseInferenceContext
    from megatron.core.packed_seq_params import PackedSeqParams
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.transformer_config import TransformerConfig
    from megatron.core.utils import WrappedTensor
    from torch import Tensor, dtype


class StackInterface(SupportsSetInputTensor, Protocol):
    """A built stack. `set_input_tensor` is called by the pipeline schedules, through the model, before every forward.

    From the second stage on, `hidden_states` is `None` and the input is the tensor of `set_input_tensor`.
    """

    @property
    def input_tensor(self) -> Tensor | None:
        """Last tensor passed to `set_input_tensor`. Read by the rotary embedding, for the sequence length."""
        ...

    def forward(
        self,
        *,
        hidden_states: Tensor | WrappedTensor | None,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        rotary_pos_emb: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Run the layers of this stage. Called by `HybridModel.forward`.

        Args:
            hidden_states: `[s, b, h]` from the embedding, or `None` from the second stage on. In generation it is
                wrapped, so that the caller can drop its reference.
            attention_mask: See `CoreAttentionInterface.forward`.
            inference_context: Key and value cache of a generation, or `None`.
            rotary_pos_emb: `[s, 1, 1, d]` angles, or `None` without rotary embedding.
            packed_seq_params: Boundaries of packed sequences, or `None`.
            padding_mask: `[b, s]`, true where a token is padding, or `None`.

        Returns:
            `[s, b, h]`, after the final norm on the last stage.
        """
        ...

    def __call__(
        self,
        *,
        hidden_states: Tensor | WrappedTensor | None,
        attention_mask: Tensor | None,
        inference_context: BaseInferenceContext | None,
        rotary_pos_emb: Tensor | None,
        packed_seq_params: PackedSeqParams | None,
        padding_mask: Tensor | None,
    ) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class StackBuilder(Protocol):
    """Builder of the stack of one stage.

    Call site: `hybrid_model.py`, `HybridModel.__init__` (untyped there, through `build_module`).
    """

    def __call__(
        self,
        config: TransformerConfig,
        /,
        *,
        pre_process: bool,
        layer_type_list: list[str],
        pp_layer_offset: int,
        post_process: bool,
        dtype: dtype,
        pg_collection: ProcessGroupCollection,
        name: str | None,
    ) -> StackInterface:
        """Build the stack.

        Args:
            config: The engine's config.
            pre_process: Whether this is the first stage, which receives its input as an argument.
            layer_type_list: Stack pattern of this stage, one symbol per layer.
            pp_layer_offset: Number of layers before this stage.
            post_process: Whether this is the last stage, which has the final norm.
            dtype: Dtype of the parameters.
            pg_collection: Process groups.
            name: Dotted name of this module in the model, `"decoder"`.

        Returns:
            The stack.
        """
        ...
