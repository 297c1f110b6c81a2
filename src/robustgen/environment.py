"""Settings from environment variables, read and checked without importing PyTorch."""

import math
import os
import re

from robustgen.errors import UserError

DEVICE_VARIABLE = "ROBUSTGEN_DEVICE"
BACKEND_VARIABLE = "ROBUSTGEN_BACKEND"
BACKENDS = ("accelerated", "plain")
CHECKPOINT_VARIABLE = "ROBUSTGEN_CHECKPOINT_SECONDS"
DEFAULT_CHECKPOINT_INTERVAL_S = 60.0
"""Seconds between two checkpoints if ROBUSTGEN_CHECKPOINT_SECONDS is not set."""


def read_device_name() -> str | None:
    """Return the value of ROBUSTGEN_DEVICE, or None if it is unset or empty.

    Raises:
        UserError: the value is neither the CPU nor a CUDA device.
    """
    name = os.environ.get(DEVICE_VARIABLE, "").strip()
    if name and not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name, re.ASCII):
        raise UserError(f"{DEVICE_VARIABLE} is {name!r}, but must be cpu, cuda or cuda:<number>")
    return name or None


def read_backend_name() -> str:
    """Return the value of ROBUSTGEN_BACKEND, one of `BACKENDS`; "accelerated" if unset or empty.

    Raises:
        UserError: the value is not a backend.
    """
    name = os.environ.get(BACKEND_VARIABLE, "").strip() or BACKENDS[0]
    if name not in BACKENDS:
        raise UserError(f"{BACKEND_VARIABLE} is {name!r}, but must be {' or '.join(BACKENDS)}")
    return name


def read_checkpoint_interval() -> float:
    """Return the least time between two checkpoints of a job, in seconds.

    Raises:
        UserError: ROBUSTGEN_CHECKPOINT_SECONDS is not a number of seconds.
    """
    text = os.environ.get(CHECKPOINT_VARIABLE, "").strip()
    try:
        seconds = float(text or DEFAULT_CHECKPOINT_INTERVAL_S)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise UserError(
            f"{CHECKPOINT_VARIABLE} is {text!r}, but must be a number of seconds, 0 or more"
        )
    return seconds


def require_valid_variables() -> None:
    """Check every environment variable of this package.

    Raises:
        UserError: a variable has a value that is not allowed.
    """
    read_device_name()
    read_backend_name()
    read_checkpoint_interval()
