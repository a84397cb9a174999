"""Mamba-2: the mixer, and its scan, convolution, gated norm and kernels."""
