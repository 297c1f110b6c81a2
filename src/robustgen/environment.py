"""Settings that environment variables hold. They are checked without importing PyTorch."""

import math
import os
import re

from robustgen.errors import UserError

DEVICE_VARIABLE = "ROBUSTGEN_DEVICE"
BACKEND_VARIABLE = "ROBUSTGEN_BACKEND"
BACKENDS = ("accelerated", "plain")
CHECKPOINT_VARIABLE = "ROBUSTGEN_CHECKPOINT_SECONDS"
CHECKPOINT_SECONDS = 60.0
"""Seconds of work between two checkpoints, unless the environment names another number."""


def device_name() -> str | None:
    """The device that ROBUSTGEN_DEVICE names, or None if the variable is unset or empty.

    Raises:
        UserError: the variable names neither the CPU nor a CUDA device.
    """
    name = os.environ.get(DEVICE_VARIABLE, "").strip()
    if name and not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name, re.ASCII):
        raise UserError(f"{DEVICE_VARIABLE} is {name!r}, but must be cpu, cuda or cuda:<number>")
    return name or None


def backend_name() -> str:
    """The backend that ROBUSTGEN_BACKEND names: "accelerated", also if unset or empty, or "plain".

    Raises:
        UserError: the variable names another backend.
    """
    name = os.environ.get(BACKEND_VARIABLE, "").strip() or BACKENDS[0]
    if name not in BACKENDS:
        raise UserError(f"{BACKEND_VARIABLE} is {name!r}, but must be {' or '.join(BACKENDS)}")
    return name


def checkpoint_seconds() -> float:
    """The least time between two checkpoints of a job, in seconds.

    Raises:
        UserError: ROBUSTGEN_CHECKPOINT_SECONDS is not a number of seconds.
    """
    text = os.environ.get(CHECKPOINT_VARIABLE, "").strip()
    try:
        seconds = float(text or CHECKPOINT_SECONDS)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(
            f"{CHECKPOINT_VARIABLE} is {text!r}, but must be a number of seconds, 0 or more"
        )
    return seconds


def require_valid_variables() -> None:
    """Raise if a variable of this package has a value that is not allowed.

    Raises:
        UserError: naming the variable, its value and what is allowed.
    """
    device_name()
    backend_name()
    checkpoint_seconds()
