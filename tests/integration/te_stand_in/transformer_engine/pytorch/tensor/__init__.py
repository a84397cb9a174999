"""Tensors in narrow dtypes. Nothing makes one: modelwright refuses parameters in narrow dtypes."""

import torch


class QuantizedTensor(torch.Tensor):
    """Base of the tensors in narrow dtypes."""
