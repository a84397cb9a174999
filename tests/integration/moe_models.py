"""A model with experts that is as small as trains, for tests of the parts that layers give."""

from modelwright.config import Parallelism, RunConfig, TrainConfig
from modelwright.moe import MoeModelConfig

MODEL = MoeModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    vocab_size=256,
    seq_length=32,
    num_experts=4,
    top_k=2,
    expert_ffn_hidden_size=24,
    load_balancing="none",
)
RUN = RunConfig(model=MODEL, train=TrainConfig(steps=5, micro_batch=2, global_batch=8, lr=1e-2))
LAYOUTS = {
    "expert 2": Parallelism(data=2, expert=2),
    "data 2": Parallelism(data=2),
    "tensor 2, sequence": Parallelism(tensor=2, sequence=True),
    "tensor 2, sequence, expert 2": Parallelism(tensor=2, sequence=True, expert=2, expert_tensor=1),
    "expert tensor 2 of data 2": Parallelism(data=2, expert_tensor=2),
    "context 2": Parallelism(context=2),
    "pipeline 2": Parallelism(pipeline=2),
}
