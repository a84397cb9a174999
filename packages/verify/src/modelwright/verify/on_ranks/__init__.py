"""The ranks of a verification: build the model, train it, and record what is compared."""
