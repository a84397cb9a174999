"""The stack: its spec, the backends that fill it, and the way to the engine's model."""
