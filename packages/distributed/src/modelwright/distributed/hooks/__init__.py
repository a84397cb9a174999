"""Build hooks that this package provides: freezing parameters by name."""
