"""Initial values that do not depend on the layout, building on the meta device, unsharded state dicts."""
