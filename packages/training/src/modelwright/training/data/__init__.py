"""Data for training and validation."""
