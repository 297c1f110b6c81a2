"""The only place that chooses device, number of threads and exactness of the arithmetic."""

import gc
import os

# To look for garbage while PyTorch is imported takes a sixth of that time, and finds none.
_collecting = gc.isenabled()
gc.disable()
try:
    import torch
finally:
    gc.freeze()
    if _collecting:
        gc.enable()

from robustgen.environment import DEVICE_VARIABLE, device_name  # noqa: E402
from robustgen.errors import UserError  # noqa: E402

CPU_THREADS = 1
"""Threads of one job. Fixed, because the number of threads decides the order in which sums are
taken: more cores mean more jobs at once, never other numbers."""

WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether the processor has the widest vectors, with which other ways are the fastest. Between
kinds of processors results differ by rounding in any case."""

KEPT = 31 * 2**20
"""Bytes that glibc learns to keep; of more than 32 MiB it learns nothing."""


def setup() -> torch.device:
    """Make torch deterministic and return the device to compute on.

    CUDA where there is one, else the CPU; the environment variable ROBUSTGEN_DEVICE names
    another ("cpu", "cuda:1").

    Raises:
        UserError: that device is not there.
    """
    torch.set_num_threads(CPU_THREADS)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Memory that is never read before it is written need not be filled: a tenth of all time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # The C library keeps freed memory up to the size of what was freed before. What it gives back
    # to the system must be cleared anew when it is next needed (`benchmarks/passes.py`).
    torch.empty(KEPT, dtype=torch.uint8)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # three digits of convolutions, without being asked
    name = device_name() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # where kernels are started and graphs are recorded
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{DEVICE_VARIABLE} is {name!r}, which cannot be used: {said}") from error
    # As use_deterministic_algorithms does, without importing the compiler (1.5 s a job). On CUDA
    # the backward pass of grid_sample counts as nondeterministic for its gradient to the image,
    # which is never asked for here: an error there would be a false alarm.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    return device


def to_device_async(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to `device` without waiting for the work that a GPU still has to do."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
