"""Whether a part fits a slot, how a constructor is adapted to it, and where its arguments come from."""
