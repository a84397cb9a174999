"""The command modelwright: train, build, generate, config and doctor."""
