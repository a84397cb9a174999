"""Protocols of the parts that a `StackSpec` builds, one file per topic.

A few slots inside these parts cannot be filled yet; `spec_fields` in the table of slots is empty for them.
"""
