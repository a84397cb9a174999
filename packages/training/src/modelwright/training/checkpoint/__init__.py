"""Checkpoints of a run, and the folder that they are in."""
