"""The peak memory of this process, or of PyTorch on a GPU."""

from pathlib import Path

import torch


def reset_peak(device: torch.device) -> None:
    """Reset the peak memory to the current memory, where the system supports it."""
    clear_refs = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif clear_refs.exists():
        clear_refs.write_text("5")


def peak_mb(device: torch.device) -> float | None:
    """Return the peak memory in MB since the last reset; None where it is not reported."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peaks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(peaks[0]) / 1e3 if peaks else None
