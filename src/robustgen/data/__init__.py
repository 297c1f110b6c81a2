"""Data sets: how images are found, drawn, read and split."""
