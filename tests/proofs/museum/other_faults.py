"""Faults of experts, pipelines, batches and optimizers, in bare Megatron models."""

from typing import Any

from megatron.core.models.gpt.gpt_model import GPTModel
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor

from tests.proofs.museum.bare import config_of, layer_of, model_of

EXPERTS: dict[str, Any] = {
    "num_moe_experts": 4,
    "moe_router_topk": 2,
    "moe_ffn_hidden_size": 32,
    "moe_token_dispatcher_type": "alltoall",
    "moe_router_load_balancing_type": "none",
    "moe_aux_loss_coeff": 0.0,
}
BALANCED: dict[str, Any] = EXPERTS | {"moe_router_load_balancing_type": "aux_loss", "moe_aux_loss_coeff": 0.1}


def experts_with(groups: Any, layout: Any, router: Any, kind: Any = GPTModel, **fields: Any) -> Any:
    """A model of experts with another router."""
    layer = layer_of(num_experts=4, moe_grouped_gemm=False)
    given: MoESubmodules = layer.mlp.keywords["submodules"]

    def build(*args: Any, **kwargs: Any) -> MoELayer:
        submodules = MoESubmodules(experts=given.experts, shared_experts=given.shared_experts, router=router)
        return MoELayer(*args, submodules=submodules, **kwargs)

    layer.mlp = build
    return model_of(groups, config_of(groups, layout, **(EXPERTS | fields)), layer, kind=kind)


def right_experts(groups: Any, layout: Any) -> Any:
    """The model of experts without a fault."""
    return experts_with(groups, layout, TopKRouter)


class UnmarkedRouter(TopKRouter):
    """A router of which the weight lacks the mark of sequence parallelism."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.weight.sequence_parallel = False  # type: ignore[attr-defined]


def unmarked_router(groups: Any, layout: Any) -> Any:
    """Routers that tensor ranks with different tokens do not synchronize."""
    return experts_with(groups, layout, UnmarkedRouter)


class LocallyBalancedRouter(TopKRouter):
    """A router that scales its balancing loss by the tokens of its rank."""

    def attach_and_log_load_balancing_loss(
        self, activation: Tensor, aux_loss_coeff: Any, aux_loss: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        scaled = aux_loss * activation.shape[0] / 64
        return super().attach_and_log_load_balancing_loss(activation, aux_loss_coeff, scaled, *args, **kwargs)


def locally_balanced(groups: Any, layout: Any) -> Any:
    """A balancing loss that depends on the number of tokens of a rank."""
    return experts_with(groups, layout, LocallyBalancedRouter, **BALANCED)


class PaddedGPT(GPTModel):
    """A GPT that leaves spaces out of the balancing loss, by the engine's padding mask."""

    def forward(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return super().forward(input_ids, *args, padding_mask=input_ids == ord(" "), **kwargs)


def overwritten_count(groups: Any, layout: Any) -> Any:
    """The engine's router counts tokens in place: with a padding mask the local count becomes the global one."""
    fields = BALANCED | {"calculate_per_token_loss": True}
    return experts_with(groups, layout, TopKRouter, kind=PaddedGPT, **fields)


class CenteredRouter(TopKRouter):
    """A router that centers its logits over the tokens that it sees."""

    def routing(self, logits: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().routing(logits - logits.mean(dim=0, keepdim=True), *args, **kwargs)


def centered_on_the_rank(groups: Any, layout: Any) -> Any:
    """A router that centers its logits over the tokens of its rank."""
    return experts_with(groups, layout, CenteredRouter)


def unsummed_embeddings(groups: Any, layout: Any) -> Any:
    """Tied embeddings on two stages."""
    config = config_of(groups, layout)
    return model_of(groups, config, layer_of(), kind=TiedGPT, share_embeddings_and_output_weights=True)


class TiedGPT(GPTModel):
    """A GPT with tied embeddings, which forgets so after it is built."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def set_input_tensor(self, input_tensor: Tensor) -> None:
        super().set_input_tensor(input_tensor)
        if self.config.pipeline_model_parallel_size > 1:
            self.share_embeddings_and_output_weights = False


class MeanOverKept(GPTModel):
    """A GPT with a loss of letters alone, divided by their number in the micro-batch of the rank."""

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        kept = (labels != ord(" ")).float()
        return super().compute_language_model_loss(labels, logits) * kept * (kept.numel() / kept.sum())


def mean_over_local_tokens(groups: Any, layout: Any) -> Any:
    """A loss that is averaged over the tokens of a micro-batch."""
    return model_of(groups, config_of(groups, layout), layer_of(), kind=MeanOverKept)


class BatchNormed(GPTModel):
    """A GPT that normalizes its logits over the sequences of a micro-batch."""

    def compute_language_model_loss(self, labels: Tensor, logits: Tensor) -> Tensor:
        centered = logits - logits.mean(dim=1, keepdim=True) * 0.5
        return super().compute_language_model_loss(labels, centered)


def batch_statistics(groups: Any, layout: Any) -> Any:
    """Statistics of a micro-batch."""
    return model_of(groups, config_of(groups, layout), layer_of(), kind=BatchNormed)
