"""`GPTModelBuilder`: a decoder of attention and MLP layers in turn, `*-` repeated."""

from modelwright.gpt.config import GPTModelConfig
from modelwright.layers import DecoderModelBuilder


class GPTModelBuilder(DecoderModelBuilder[GPTModelConfig]):
    """Builds the model of a `GPTModelConfig`; override `build_model` or `build_distributed_models` to change how."""
