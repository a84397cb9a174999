"""Configs of a run: parallelism, dtypes, wrapper, training, and the file that joins them with a model."""
