"""What is done otherwise on a GPU: layers and searches by kernels of ours, and work replayed.

All of it equals what is done on a CPU up to rounding. Triton is imported where a kernel is called,
so that a CPU needs none.
"""
