"""The only place that makes random generators."""

import hashlib
import json

import torch


def generator(study_seed: int, purpose: str, *of: str | int) -> torch.Generator:
    """A CPU generator that depends on nothing but the arguments.

    Draws are made on the CPU and moved, so that they are the same whatever the device. Nothing
    in the package draws from global state: the order of jobs, the number of cores and who shares
    a cohort cannot change a result.

    Args:
        study_seed: the study's `seed`.
        purpose: what is drawn, e.g. "codes" or "initialization".
        of: what it is drawn for, e.g. data set, method, N and seed. What is left out is shared:
            initialization and batch order leave the method out, so that two methods are compared
            on the same draws.
    """
    key = json.dumps([study_seed, purpose, *of]).encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return torch.Generator().manual_seed(seed)
