"""Modules with parameters, and the padding of their inputs."""
