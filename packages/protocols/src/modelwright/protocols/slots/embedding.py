"""The slots at both ends of a model: embedding and output layer."""

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
        """Holds the table, `[v / tensor-parallel size, h]`, which the model marks and an output layer may share."""
        ...

    def forward(self, *, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """Embed tokens. Called by `HybridModel.forward` on the first stage.

        Args:
            input_ids: `[b, s]`.
            position_ids: `[b, s]`.

        Returns:
            `[s, b, h]`; under sequence parallelism this rank's part of `s`.
        """
        ...

    def __call__(self, *, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class EmbeddingBuilder(Protocol):
    """Makes the embedding.

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
            vocab_size: Padded size of the vocabulary, over all tensor-parallel ranks.
            max_sequence_length: Rows of a learned position table.
            position_embedding_type: `"learned_absolute"` adds a position table; the others add nothing here.
            scatter_to_sequence_parallel: Whether to return this rank's part of the sequence under sequence
                parallelism.
            tp_group: The tensor-parallel group, over which the vocabulary is split.

        Returns:
            The embedding.
        """
        ...


class OutputLayerInterface(Protocol):
    """A built output layer. Also see `SupportsSequenceParallel`."""

    @property
    def weight(self) -> Tensor | None:
        """`[v / tensor-parallel size, h]`; `None` when the embedding's table is used."""
        ...

    def forward(
        self, hidden_SBH: Tensor, /, *, weight: Tensor | None, runtime_gather_output: bool | None
    ) -> tuple[Tensor, object]:
        """Compute the logits. Called by `HybridModel.forward` on the last stage.

        Args:
            hidden_SBH: `[s, b, h]`; under sequence parallelism this rank's part of `s`.
            weight: The embedding's table, when it is shared.
            runtime_gather_output: Overrides `gather_output` for this call; `None` leaves it.

        Returns:
            `[s, b, v / tensor-parallel size]`, or `[s, b, v]` when gathered, and a second value that the engine
            ignores.
        """
        ...

    def __call__(
        self, hidden_SBH: Tensor, /, *, weight: Tensor | None, runtime_gather_output: bool | None
    ) -> tuple[Tensor, object]:
        """As `forward`; `torch.nn.Module` provides it."""
        ...


class OutputLayerBuilder(Protocol):
    """Makes the output layer.

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
            init_method: Initializes the weight in place.
            bias: Whether there is a bias; always false here.
            skip_bias_add: Whether to return the bias instead of adding it; always false here.
            gather_output: Whether to gather the logits over the tensor-parallel group.
            skip_weight_param_allocation: Whether to have no weight, because this stage's embedding shares its own.
            tp_group: The tensor-parallel group, over which the vocabulary is split.

        Returns:
            The output layer.
        """
        ...


class LossInterface(Protocol):
    """Cross entropy over logits that are split over the vocabulary; the engine's is `vocab_parallel_cross_entropy`."""

    def __call__(self, logits_SBV: Tensor, labels_SB: Tensor, /, *, tp_group: ProcessGroup) -> Tensor:
        """Compute the losses. Called by `LanguageModule.compute_language_model_loss`, unless a fused loss is asked for.

        Args:
            logits_SBV: `[s, b, v / tensor-parallel size]`.
            labels_SB: `[s, b]`, tokens of the whole vocabulary.
            tp_group: The tensor-parallel group, over which the vocabulary is split.

        Returns:
            `[s, b]`.
        """
        ...
