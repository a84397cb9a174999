"""Assembly of Megatron-Core's `HybridModel` from an engine config and a spec, with the parts around the stack."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import torch
from megatron.core.models.hybrid.hybrid_model import HybridModel
from torch import nn

from modelwright.config import LAYER_KINDS, STAGE_BOUNDARY
from modelwright.engine import as_module_spec
from modelwright.layers.dropout import place_dropouts
from modelwright.layers.engine_fields.extended_config import DecoderExtension
from modelwright.layers.moe.router_jitter import place_jitters
from modelwright.layers.padded_vocabulary import mask_padding
from modelwright.layers.stack.spec import StackSpec
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from collections.abc import Callable

    from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
    from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.tensor_parallel import ColumnParallelLinear
    from megatron.core.transformer import TransformerConfig
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LanguageModelShape:
    """Arguments of `HybridModel` that the engine's config does not have."""

    pattern: str
    """Stack pattern: one symbol for each layer, `|` between stages."""
    vocab_size: int
    """Padded vocabulary size."""
    tokens: int | None = None
    """Number of tokens in the vocabulary; the other entries are padding. None: there is no padding."""
    seq_length: int
    """Longest sequence, in tokens."""
    tie_embeddings: bool
    """True if embedding and output layer share one weight."""
    position_embedding: Literal["rope", "learned_absolute", "none"]
    """Position embedding, by the engine's name."""
    rotary_base: float = 10000.0
    """Base of the rotary wavelengths."""
    rotary_percent: float = 1.0
    """Fraction of each head that is rotated, 0 to 1."""


def build_stage(
    shape: LanguageModelShape,
    engine_config: "TransformerConfig",
    spec: StackSpec,
    pg_collection: "ProcessGroupCollection",
    *,
    pre_process: bool,
    post_process: bool,
    vp_stage: int | None,
) -> HybridModel:
    """Build one stage of a language model.

    Args:
        shape: Pattern, vocabulary and positions of the model.
        engine_config: The engine's config, from `resolve`.
        spec: Builders of all parts.
        pg_collection: Process groups of this rank.
        pre_process: True if the stage has the embedding.
        post_process: True if the stage has the final norm and the output layer.
        vp_stage: Virtual stage of this rank, from 0; None: no virtual stages.

    Returns:
        The stage.

    Raises:
        ModelwrightError: The pattern has a layer kind that no `StackSpec` can build, or a part refuses its arguments.
    """
    _check_pattern(shape.pattern)
    with _original_errors():
        model = HybridModel(
            config=engine_config,
            hybrid_stack_spec=as_module_spec(spec),
            vocab_size=shape.vocab_size,
            max_sequence_length=shape.seq_length,
            hybrid_layer_pattern=shape.pattern,
            pre_process=pre_process,
            post_process=post_process,
            share_embeddings_and_output_weights=shape.tie_embeddings,
            position_embedding_type=shape.position_embedding,
            rotary_base=cast("int", shape.rotary_base),  # declared int, used as a number
            rotary_percent=shape.rotary_percent,
            pg_collection=pg_collection,
            vp_stage=vp_stage,
        )
    _replace_parts_around_stack(model, shape, engine_config, spec)
    place_dropouts(model, pg_collection)
    place_jitters(model, pg_collection)
    if isinstance(engine_config, DecoderExtension) and engine_config.logits_softcap is not None and post_process:
        model.output_layer.register_forward_hook(partial(_bounded_logits, engine_config.logits_softcap))
    if shape.tokens is not None and post_process:
        mask_padding(model.output_layer, tokens=shape.tokens, padded=shape.vocab_size, group=pg_collection.tp)
    return model


def _bounded_logits(
    cap: float, layer: nn.Module, arguments: object, output: tuple["Tensor", "Tensor | None"]
) -> tuple["Tensor", "Tensor | None"]:
    """Bound the logits of an output layer, whichever part it is; a forward hook."""
    logits, bias = output
    return cap * torch.tanh(logits / cap), bias


def _check_pattern(pattern: str) -> None:
    """Refuse symbols without a field in `StackSpec`, for which the engine would silently build identity layers."""
    fillable = {symbol: kind for symbol, kind in LAYER_KINDS.items() if kind.spec_field is not None}
    wrong = next((symbol for symbol in pattern if symbol not in fillable and symbol != STAGE_BOUNDARY), None)
    if wrong is None:
        return
    allowed = ", ".join(f"`{symbol}` ({kind.label})" for symbol, kind in fillable.items())
    what = f" ({LAYER_KINDS[wrong].label})" if wrong in LAYER_KINDS else ""
    raise ModelwrightError(
        f"the stack pattern must be made of {allowed} and `{STAGE_BOUNDARY}` (stage boundary), which a `StackSpec` can "
        f"build, but contains `{wrong}`{what}; use other layers."
    )


@contextmanager
def _original_errors() -> Generator[None]:
    """Raise an error of a part as the part raised it.

    Seam: at every level of its tree, the engine's `build_module` raises a copy of the error with more words.
    `packages/layers/tests/stack/test_spec.py` fails when it no longer chains the copies.
    """
    try:
        yield
    except Exception as error:
        chain: list[BaseException] = [error]
        while (before := chain[-1].__context__) is not None:
            chain.append(before)
        ours = [link for link in chain if isinstance(link, ModelwrightError)]
        if not ours:
            raise
        raise ours[-1] from ours[-1].__cause__


def _replace_parts_around_stack(
    model: HybridModel, shape: LanguageModelShape, config: "TransformerConfig", spec: StackSpec
) -> None:
    """Replace embedding, rotary embedding and output layer by those of the spec, where it has them.

    Seam: `HybridModel` has no slots for these parts and builds its own. The replacements are constructed with the
    arguments of the engine's calls, and each is declared there as one class although any such part works.
    `setup_embeddings_and_output_layer` then ties and marks the new weights.
    `packages/layers/tests/stack/test_swapping.py` fails when the engine uses other attributes or arguments.
    """
    groups = model.pg_collection
    if spec.embedding is not None and model.pre_process:
        embedding = spec.embedding(
            config=config,
            vocab_size=shape.vocab_size,
            max_sequence_length=shape.seq_length,
            position_embedding_type=shape.position_embedding,
            scatter_to_sequence_parallel=True,
            tp_group=groups.tp,
        )
        model.embedding = cast("LanguageModelEmbedding", embedding)
    if spec.rotary_embedding is not None and shape.position_embedding == "rope":
        rotary = spec.rotary_embedding(
            kv_channels=cast("int", config.kv_channels),  # set by the engine's config where it was None
            rotary_percent=shape.rotary_percent,
            seq_len_interpolation_factor=None,
            rotary_base=shape.rotary_base,
            use_cpu_initialization=config.use_cpu_initialization,
            cp_group=groups.cp,
        )
        model.rotary_pos_emb = cast("RotaryEmbedding", rotary)
    if spec.output_layer is not None and model.post_process:
        output_layer = spec.output_layer(
            config.hidden_size,
            shape.vocab_size,
            config=config,
            init_method=cast("Callable[[Tensor], None]", config.init_method),  # set by `resolve`
            bias=False,
            skip_bias_add=False,
            gather_output=False,
            skip_weight_param_allocation=model.pre_process and shape.tie_embeddings,
            tp_group=groups.tp,
        )
        model.output_layer = cast("ColumnParallelLinear", output_layer)
    if spec.embedding is not None or spec.output_layer is not None:
        model.setup_embeddings_and_output_layer()
