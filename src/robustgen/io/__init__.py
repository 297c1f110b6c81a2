"""Reading and writing files: tables, tensors, checkpoints and paths of users."""
