"""The only module that makes random generators."""

import hashlib
import json

import torch


def generator(study_seed: int, purpose: str, *names: str | int) -> torch.Generator:
    """Make a CPU generator that depends only on the arguments.

    Numbers are drawn on the CPU and copied, so that they are equal for every device. Nothing in the
    package draws from global state. Neither the order of jobs, nor the number of cores, nor the
    other models of a cohort can change a result.

    Args:
        study_seed: the `seed` of the study.
        purpose: the kind of the random numbers, e.g. "codes" or "initialization".
        names: what the numbers depend on beside these, e.g. data set, method, N and seed.
            Initialization and batch order do not depend on the method, so that methods are compared
            on equal draws.
    """
    key = json.dumps([study_seed, purpose, *names]).encode()
    seed = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
    return torch.Generator().manual_seed(seed)
