"""MoE layers: router, experts, token dispatch, routing metrics."""
