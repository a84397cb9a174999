"""Memory: the least that a run needs, from its config alone, compared with what this machine has.

The need is a lower bound: weights, gradients, optimizer state, logits, the processes themselves. Activations of layers
are left out. So a run that is refused cannot fit, and one that is not may still fail. Where there is a GPU, weights and
state are in its memory, and only the processes are counted. Nothing here loads torch.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from modelwright.config import DecoderConfig, MegatronDDP, RunConfig, TorchFSDP2, activation_is_gated
from modelwright.protocols import ModelwrightError

_PROCESS_BYTES = 250 * 2**20  # of a rank that has imported torch and the engine, not shared with others
_LAYER_BYTES = 20_000  # of the Python objects of one layer, however narrow
_COUNTED_LAYERS = 100_000  # more are not counted by kind
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_SHOWN_FRACTION = 0.1
_CGROUP = Path("/sys/fs/cgroup")
_GPU = Path("/dev/nvidiactl")


def parameter_count(run: RunConfig) -> int:
    """Return the least number of parameters of a model; 0 for a family that is not a decoder.

    Args:
        run: The config.
    """
    model = run.model
    if not isinstance(model, DecoderConfig):
        return 0
    hidden = model.hidden_size
    tables = 1 if model.tie_embeddings else 2
    layers = model.blocks * model.block_size
    embedding = tables * model.padded_vocab_size * hidden
    if layers > _COUNTED_LAYERS:
        return embedding + layers * hidden
    fields = model.engine_fields()
    gated = 3 if activation_is_gated(model.activation) else 2
    counts = Counter(model.layers)
    return embedding + sum(count * _layer_parameters(symbol, hidden, gated, fields) for symbol, count in counts.items())


def _layer_parameters(symbol: str, hidden: int, gated: int, fields: Mapping[str, Any]) -> int:
    """Return the least number of parameters of one layer: those of its large matrices."""
    if symbol == "*":
        head = fields["kv_channels"]
        return int(2 * hidden * head * (fields["num_attention_heads"] + fields["num_query_groups"]))
    if symbol == "-":
        return int(gated * hidden * fields["ffn_hidden_size"])
    if symbol == "E":
        width = fields.get("moe_latent_size") or hidden
        return int(fields["num_moe_experts"] * gated * width * fields["moe_ffn_hidden_size"])
    if symbol == "M":
        return int(3 * hidden * fields["mamba_num_heads"] * fields["mamba_head_dim"])
    return hidden


def training_bytes(run: RunConfig) -> int:
    """Return the memory that all ranks of a training need together, at least, in bytes.

    Args:
        run: The config.
    """
    ranks, parallelism = run.parallelism.world_size(), run.parallelism
    processes = ranks * _PROCESS_BYTES + _object_bytes(run)
    if _GPU.exists():
        return processes
    replicas = max(1, ranks // (parallelism.tensor * parallelism.pipeline * parallelism.context))
    dtype = _DTYPE_BYTES[run.precision.params]
    state = 8 if dtype == 4 else 12
    if isinstance(run.wrap, TorchFSDP2):
        each, once = 0, 2 * dtype + state
    elif isinstance(run.wrap, MegatronDDP) and run.wrap.distributed_optimizer:
        each, once = 2 * dtype, state
    else:
        each, once = 2 * dtype + state, 0
    weights = parameter_count(run) * (replicas * each + once)
    return weights + _logit_bytes(run, run.train.micro_batch) + processes


def inference_bytes(run: RunConfig) -> int:
    """Return the memory that generating with a model on one process needs, at least, in bytes.

    Args:
        run: The config of the model.
    """
    process = _PROCESS_BYTES + _object_bytes(run)
    return process if _GPU.exists() else 4 * parameter_count(run) + _cache_bytes(run) + process


def _logit_bytes(run: RunConfig, sequences: int) -> int:
    model = run.model
    if not isinstance(model, DecoderConfig):
        return 0
    return 4 * sequences * model.seq_length * (model.padded_vocab_size + model.hidden_size)


def _cache_bytes(run: RunConfig) -> int:
    """Return the size of the keys and values of a full context."""
    model = run.model
    if not isinstance(model, DecoderConfig) or model.blocks * model.block_size > _COUNTED_LAYERS:
        return 0
    attention = model.layers.count("*")
    return 8 * attention * model.seq_length * model.resolved_query_groups * model.resolved_head_dim


def _object_bytes(run: RunConfig) -> int:
    model = run.model
    return model.blocks * model.block_size * _LAYER_BYTES if isinstance(model, DecoderConfig) else 0


def available_bytes() -> int:
    """Return the memory that processes of this machine can still take, in bytes, within the limit of the container."""
    available = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no limit is the text `max`
        limit, used = (int((_CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        available = min(available, max(0, limit - used))
    return available


def check_memory(needed: int, purpose: str, *, option: str) -> str | None:
    """Refuse what cannot fit into the memory of this machine.

    Args:
        needed: Bytes.
        purpose: What needs them, as the subject of a sentence.
        option: The option that leaves this check out, for the message.

    Returns:
        A line that states the need, if it is a large part of what there is. None: it is small.

    Raises:
        ModelwrightError: More is needed than there is.
    """
    available = available_bytes()
    if needed > available:
        raise ModelwrightError(
            f"{purpose} must fit into the {_size(available)} of memory that this machine has left, but needs at least "
            f"{_size(needed)}; use a smaller model, fewer ranks or a larger machine, or `{option}` to try it all the "
            "same."
        )
    if needed < _SHOWN_FRACTION * available:
        return None
    return f"memory: {purpose} needs at least {_size(needed)} of {_size(available)}"


def _size(count: int) -> str:
    """Return a number of bytes in words."""
    return f"{count / 10**9:,.1f} GB"
