"""The calls that drive the engine's schedules, optimizer, data, checkpoints and generation."""
