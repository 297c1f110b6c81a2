"""The most memory of a process since it was last asked to forget that: all of it, or on a GPU."""

from pathlib import Path

import torch


def forget(device: torch.device) -> None:
    """Begin anew."""
    peak = Path("/proc/self/clear_refs")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif peak.exists():
        peak.write_text("5")


def peak_mb(device: torch.device) -> float | None:
    """MB at most; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    high = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return int(high[0]) / 1e3 if high else None
