"""Triton kernels, CUDA graphs and whole searches on a GPU."""
