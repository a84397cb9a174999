"""What a model reads in training and validation."""
