"""From an engine config and a spec to the engine's `HybridModel`, with the slots around the stack filled too."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from megatron.core.models.hybrid.hybrid_model import HybridModel

from modelwright.engine import as_engine, as_module_spec
from modelwright.layers.stack.spec import StackSpec
from modelwright.protocols import ModelwrightError

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer import TransformerConfig


@dataclass(frozen=True, kw_only=True)
class LanguageModelShape:
    """What `HybridModel` takes beside the engine's config."""

    pattern: str
    """One symbol per layer, `|` between stages."""
    vocab_size: int
    """Padded."""
    seq_length: int
    """Longest sequence."""
    tie_embeddings: bool
    """Whether the output layer is the embedding."""
    position_embedding: Literal["rope", "learned_absolute", "none"]
    """As the engine names it."""
    rotary_base: float = 10000.0
    """Base of the rotary wavelengths."""
    rotary_percent: float = 1.0
    """Part of each head that is rotated."""


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
        shape: What stands around the stack.
        engine_config: From `resolve`.
        spec: What fills every slot.
        pg_collection: The process groups of this rank.
        pre_process: Whether the stage holds the embedding.
        post_process: Whether the stage holds the final norm and the output layer.
        vp_stage: Virtual stage, None without.

    Returns:
        The stage.
    """
    with _as_raised():
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
            rotary_base=as_engine(shape.rotary_base),  # declared int, computed with as a number
            rotary_percent=shape.rotary_percent,
            pg_collection=pg_collection,
            vp_stage=vp_stage,
        )
    _fill_slots(model, shape, spec)
    return model


@contextmanager
def _as_raised() -> Generator[None]:
    """What a part refuses, in its own words: the engine raises it again, with more words, at every level it built."""
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


def _fill_slots(model: HybridModel, shape: LanguageModelShape, spec: StackSpec) -> None:
    """Replace what `HybridModel` builds itself by the parts of the spec, called as `HybridModel` calls its own."""
    config, groups = as_engine(model.config), model.pg_collection
    if spec.embedding is not None and model.pre_process:
        model.embedding = as_engine(
            spec.embedding(
                config=config,
                vocab_size=shape.vocab_size,
                max_sequence_length=shape.seq_length,
                position_embedding_type=shape.position_embedding,
                scatter_to_sequence_parallel=True,
                tp_group=groups.tp,
            )
        )
    if spec.rotary_embedding is not None and shape.position_embedding == "rope":
        model.rotary_pos_emb = as_engine(
            spec.rotary_embedding(
                kv_channels=config.kv_channels,
                rotary_percent=shape.rotary_percent,
                seq_len_interpolation_factor=None,
                rotary_base=shape.rotary_base,
                use_cpu_initialization=config.use_cpu_initialization,
                cp_group=groups.cp,
            )
        )
    if spec.output_layer is not None and model.post_process:
        model.output_layer = as_engine(
            spec.output_layer(
                config.hidden_size,
                shape.vocab_size,
                config=config,
                init_method=config.init_method,
                bias=False,
                skip_bias_add=False,
                gather_output=False,
                skip_weight_param_allocation=model.pre_process and shape.tie_embeddings,
                tp_group=groups.tp,
            )
        )
    if spec.embedding is not None or spec.output_layer is not None:
        model.setup_embeddings_and_output_layer()
