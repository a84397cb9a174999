"""Attention: the core attention of backend `torch`, and MLA."""
