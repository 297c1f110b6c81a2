"""Layers of several models at once on a CPU."""
