"""The Protocols of the slots that a `StackSpec` can fill, one file for each part of a model."""
