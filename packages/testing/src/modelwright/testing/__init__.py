"""Test support: fakes, deterministic weights and a one-call multi-process runner."""
