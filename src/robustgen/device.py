"""The only module that chooses the device, the number of threads and the precision."""

import gc
import os

# Garbage collection takes a sixth of the import of PyTorch and frees nothing.
_gc_was_enabled = gc.isenabled()
gc.disable()
try:
    import torch
finally:
    gc.freeze()
    if _gc_was_enabled:
        gc.enable()

from robustgen.environment import DEVICE_VARIABLE, read_device_name  # noqa: E402
from robustgen.errors import UserError  # noqa: E402

CPU_THREADS = 1
"""Threads of one job. The number is fixed, because it determines the order of summation and so
changes results. Further cores run further jobs."""

HAS_AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
"""Whether the processor has vectors of 512 bits, for which other implementations are fastest.
Results differ between kinds of processors by rounding, with or without this choice."""

RETAINED_BYTES = 31 * 2**20
"""Size of freed blocks up to which glibc reuses memory instead of returning it to the system. Its
limit for this threshold is 32 MiB."""


def setup() -> torch.device:
    """Make torch deterministic and return the device to compute on.

    It is the value of ROBUSTGEN_DEVICE ("cpu", "cuda:1") if that is set; otherwise a GPU if there
    is one, and the CPU if not.

    Raises:
        UserError: the device of ROBUSTGEN_DEVICE does not exist.
    """
    torch.set_num_threads(CPU_THREADS)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # No tensor is read before it is written, and filling new memory would take a tenth of all time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # glibc reuses freed blocks up to the size of the largest one freed so far. The system must
    # clear each block that is returned to it (`benchmarks/passes.py`).
    torch.empty(RETAINED_BYTES, dtype=torch.uint8)
    torch.backends.cudnn.benchmark = False
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False  # TF32 would leave convolutions three digits
    name = read_device_name() or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # the device of Triton kernels and CUDA graphs
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the device {name!r} cannot be used: {reason}; set {DEVICE_VARIABLE} to another one, "
            "such as cpu"
        ) from error
    # `use_deterministic_algorithms` would import the compiler, which takes 1.5 s. On CUDA, torch
    # considers the backward pass of `grid_sample` nondeterministic because of its gradient with
    # respect to the image. This package never computes that gradient, so "error" would be wrong.
    torch.set_deterministic_debug_mode("error" if device.type == "cpu" else "warn")
    return device


def to_device_async(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a CPU tensor to `device` without synchronizing with a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
