"""Protocols of the slots at both ends of a Megatron-Core model: embedding, output layer and loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.transformer.transformer_config import TransformerConfig
    from torch import Tensor
    from torch.distributed import ProcessGroup

    from modelwright.protocols.optional_members import SupportsWeight


class EmbeddingInterface(Protocol):
    """A built embedding. Also see `SupportsScatterToSequenceParallel`."""

    @property
    def word_embeddings(self) -> SupportsWeight:
        """Module with the table `[v / tensor-parallel size, h]` as `weight`. An output layer may share the table."""
        ...

    def forward(self, *, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Embed tokens. Called by `HybridModel.forward` on the first stage.

        Args:
            input_ids: `[b, s]`.
            position_ids: `[b, s]`.

        Returns:
            `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
        """
        ...

    def __call__(self, *, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class EmbeddingBuilder(Protocol):
    """Builder of the embedding.

    Call site: `hybrid_model.py`, `HybridModel.__init__`, where the class is fixed (`LanguageModelEmbedding`).
    """

    def __call__(
        self,
        *,
        config: TransformerConfig,
        vocab_size: int,
        max_sequence_length: int,
        position_embedding_type: Literal["learned_absolute", "rope", "none"],
        scatter_to_sequence_parallel: bool,
        tp_group: ProcessGroup,
    ) -> EmbeddingInterface:
        """Build the embedding.

        Args:
            config: The engine's config.
            vocab_size: Padded size of the vocabulary over all tensor-parallel ranks.
            max_sequence_length: Number of rows of a learned position table.
            position_embedding_type: `"learned_absolute"` adds a position table. Other values add nothing here.
            scatter_to_sequence_parallel: Whether to return this rank's shard of the sequence under sequence
                parallelism.
            tp_group: Tensor-parallel group, over which the vocabulary is split.

        Returns:
            The embedding.
        """
        ...


class OutputLayerInterface(Protocol):
    """A built output layer. Also see `SupportsSequenceParallel`."""

    @property
    def weight(self) -> Tensor | None:
        """Weight `[v / tensor-parallel size, h]`, or `None` if the embedding's table is used."""
        ...

    def forward(
        self, hidden_SBH: Tensor, /, *, weight: Tensor | None, runtime_gather_output: bool | None
    ) -> tuple[Tensor, object]:
        """Compute the logits. Called by `HybridModel.forward` on the last stage.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's shard of `s`.
            weight: The embedding's table if it is shared, else `None`.
            runtime_gather_output: Value of `gather_output` for this call. `None`: that of the constructor.

        Returns:
            `[s, b, v / tensor-parallel size]`, or `[s, b, v]` when gathered, and a second value that the engine
            ignores.
        """
        ...

    def __call__(
        self, hidden_SBH: Tensor, /, *, weight: Tensor | None, runtime_gather_output: bool | None
    ) -> tuple[Tensor, object]:
        """Call `forward`; `torch.nn.Module` provides this method."""
        ...


class OutputLayerBuilder(Protocol):
    """Builder of the output layer.

    Call site: `hybrid_model.py`, `HybridModel.__init__`, where the class is fixed (`ColumnParallelLinear`).
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
        skip_bias_add: bool,
        gather_output: bool,
        skip_weight_param_allocation: bool,
        tp_group: ProcessGroup,
    ) -> OutputLayerInterface:
        """Build the output layer.

        Args:
            input_size: `h`.
            output_size: Padded size `v` of the vocabulary, over all tensor-parallel ranks.
            config: The engine's config.
            init_method: Function that initializes the weight in place.
            bias: Whether the layer has a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            gather_output: Whether to gather the logits over the tensor-parallel group.
            skip_weight_param_allocation: Whether to allocate no weight, because the embedding of this stage shares its
                table.
            tp_group: Tensor-parallel group, over which the vocabulary is split.

        Returns:
            The output layer.
        """
        ...


class LossInterface(Protocol):
    """Cross entropy of logits that are split over the vocabulary; the engine uses `vocab_parallel_cross_entropy`."""

    def __call__(self, logits_SBV: Tensor, labels_SB: Tensor, /, *, tp_group: ProcessGroup) -> Tensor:
        """Compute the loss of each token.

        Called by `LanguageModule.compute_language_model_loss`, unless `config.cross_entropy_loss_fusion` is set.

        Args:
            logits_SBV: `[s, b, v / tensor-parallel size]`.
            labels_SB: `[s, b]`, token ids of the whole vocabulary.
            tp_group: Tensor-parallel group, over which the vocabulary is split.

        Returns:
            `[s, b]`.
        """
        ...
