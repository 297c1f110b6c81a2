"""The only place that chooses device, number of threads and exactness of the arithmetic."""

import os

import torch

CPU_THREADS = 1
"""Threads of one job. Fixed, because the number of threads decides the order in which sums are
taken: more cores mean more jobs at once, never other numbers."""


def setup() -> torch.device:
    """Make torch deterministic and return the device to compute on.

    CUDA where there is one, else the CPU; the environment variable ROBUSTGEN_DEVICE names
    another ("cpu", "cuda:1").
    """
    torch.set_num_threads(CPU_THREADS)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # The same as use_deterministic_algorithms(True), without importing the compiler (1.5 s a job).
    torch.set_deterministic_debug_mode("error")
    # Memory that is never read before it is written need not be filled: a tenth of all time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    name = os.environ.get("ROBUSTGEN_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
