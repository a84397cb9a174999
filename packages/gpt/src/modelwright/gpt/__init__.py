"""The GPT family: config, builder, presets and Hugging Face name maps."""
