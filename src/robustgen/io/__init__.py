"""Files: tables, tensors, checkpoints, paths."""
