"""`GPTModelBuilder`: assembles a GPT from attention and MLP layers in turn, the pattern `*-` repeated.

A GPT needs nothing beyond what all decoders share; see `modelwright.layers.DecoderModelBuilder`.
"""

from modelwright.gpt.config import GPTModelConfig
from modelwright.layers import DecoderModelBuilder


class GPTModelBuilder(DecoderModelBuilder[GPTModelConfig]):
    """Builds the model of a `GPTModelConfig`.

    Override `build_model` for another module, or `build_distributed_models` for another lifecycle.
    """
