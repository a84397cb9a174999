"""ModelBuilder, hooks and the registry that finds the builder of a config."""
