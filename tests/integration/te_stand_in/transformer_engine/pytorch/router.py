"""The choice of experts."""

import torch
from torch import Tensor

from transformer_engine.recorded import record


def fused_topk_with_score_function(
    logits: Tensor,
    topk: int,
    use_pre_softmax: bool,
    num_groups: int | None,
    group_topk: int | None,
    scaling_factor: float | None,
    score_function: str,
    expert_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    record("fused_topk", logits=logits, topk=topk, score=score_function, pre=use_pre_softmax, bias=expert_bias)
    if num_groups or expert_bias is not None:
        raise NotImplementedError
    scores = logits.float().sigmoid() if score_function == "sigmoid" else logits.float()
    if score_function == "softmax" and use_pre_softmax:
        scores = scores.softmax(-1)
    values, chosen = scores.topk(topk, dim=-1)
    if score_function == "softmax" and not use_pre_softmax:
        values = values.softmax(-1)
    if score_function == "sigmoid" and topk > 1:
        values = values / (values.sum(-1, keepdim=True) + 1e-20)
    values = values * (scaling_factor or 1.0)
    probs = torch.zeros_like(scores).scatter(1, chosen, values)
    return probs.to(logits.dtype), torch.zeros_like(scores).scatter(1, chosen, 1.0).bool()


def fused_compute_score_for_moe_aux_loss(logits: Tensor, topk: int, score_function: str) -> tuple[Tensor, Tensor]:
    record("fused_scores", logits=logits, topk=topk, score=score_function)
    scores = logits.float().softmax(-1)
    if score_function == "sigmoid":
        scores = logits.float().sigmoid()
        scores = scores / (scores.sum(-1, keepdim=True) + 1e-20)
    return torch.zeros_like(scores).scatter(1, scores.topk(topk, dim=-1).indices, 1.0).bool(), scores


def fused_moe_aux_loss(
    probs: Tensor, tokens_per_expert: Tensor, total_num_tokens: int, num_experts: int, topk: int, coeff: float
) -> Tensor:
    record("fused_moe_aux_loss", probs=probs, coeff=coeff)
    share = (probs.sum(0) * tokens_per_expert).sum()
    return share * (num_experts * coeff / (topk * total_num_tokens * total_num_tokens))
