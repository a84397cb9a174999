"""Dense MLP: its layer spec and the spec of the MLP itself."""
