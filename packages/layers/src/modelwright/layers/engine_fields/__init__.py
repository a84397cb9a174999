"""The fields of Megatron-Core's config: which has an effect in a model, and the check of those that are given."""
