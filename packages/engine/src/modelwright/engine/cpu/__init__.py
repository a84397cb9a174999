"""The engine on a machine without a GPU: every CUDA call that it makes, answered on the CPU."""
