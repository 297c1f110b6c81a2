"""Faster implementations of what the science defines; imported by scripts, not by the science."""
