"""Strict, lossless configs of models and runs; no torch."""
