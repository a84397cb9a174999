"""A model of experts as small as trains, for tests of the parts that layers give; the ranks import it."""

from collections.abc import Mapping
from typing import Any, ClassVar, override

from modelwright.config import ModelConfig, Parallelism, RunConfig, TrainConfig, config_class


@config_class
class MoePartsConfig(ModelConfig):
    """Attention and a mixture of experts in turn."""

    kind: ClassVar[str] = "moe-parts"
    builder: ClassVar[str] = f"{__name__}_builder:MoePartsBuilder"

    pattern: str = "*E*E"
    vocab_size: int = 256
    seq_length: int = 32
    hidden_size: int = 32
    experts: int = 4
    topk: int = 2
    expert_ffn: int = 24
    dispatcher: str = "alltoall"
    activation: str = "swiglu"
    bias: bool = False

    @override
    def engine_fields(self) -> Mapping[str, Any]:
        return {
            "num_layers": len(self.pattern),
            "hidden_size": self.hidden_size,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "ffn_hidden_size": 48,
            "activation": self.activation,
            "normalization": "RMSNorm",
            "layernorm_epsilon": 1e-5,
            "add_bias_linear": self.bias,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
            "init_method_std": 0.02,
            "num_moe_experts": self.experts,
            "moe_router_topk": self.topk,
            "moe_ffn_hidden_size": self.expert_ffn,
            "moe_token_dispatcher_type": self.dispatcher,
        }


RUN = RunConfig(
    model=MoePartsConfig(engine={"moe_router_load_balancing_type": "none"}),
    train=TrainConfig(steps=5, micro_batch=2, global_batch=8, lr=1e-2),
)
LAYOUTS = {
    "expert 2": Parallelism(data=2, expert=2),
    "data 2": Parallelism(data=2),
    "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
    "tensor 2, sequence, expert 2": Parallelism(tensor=2, sequence=True, expert=2, expert_tensor=1),
    "expert tensor 2 of data 2": Parallelism(data=2, expert_tensor=2),
    "context 2": Parallelism(context=2),
    "pipeline 2": Parallelism(pipeline=2),
}
