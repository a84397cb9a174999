"""Process groups, stages, precision, data-parallel wrapping and the CPU runtime."""
