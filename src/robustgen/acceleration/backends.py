"""The one place that chooses how operations are computed on a device.

Scripts ask for the backend of cohorts or of VAE-GANs. There are two functions, because the
fingerprint of a job contains all code that its script reaches: with one function, a change of the
search would run the training of VAE-GANs again.
"""

import torch

from robustgen.acceleration.adam import make_fast_adam
from robustgen.acceleration.batched_forward import batched_forward
from robustgen.acceleration.cpu import vaegan_layers
from robustgen.acceleration.cuda.cuda_graph import CudaGraphed
from robustgen.acceleration.cuda.whole_search import ascend
from robustgen.acceleration.random_starts import sample_starts_in_threads
from robustgen.acceleration.verification import Verifier, verify_forward
from robustgen.acceleration.verified_search import verify_ascend
from robustgen.backend import PLAIN, Backend
from robustgen.environment import read_backend_name

NAME = "accelerated"


def for_cohorts(device: torch.device) -> Backend:
    """Return the fastest backend for training and attacking cohorts on a device.

    It is `PLAIN` if ROBUSTGEN_BACKEND is "plain". On a GPU, each job verifies the kernels.

    Raises:
        UserError: ROBUSTGEN_BACKEND names no backend.
    """
    if not _is_accelerated(device):
        return PLAIN
    return make_cuda_backend() if device.type == "cuda" else make_cpu_backend()


def for_vaegans(device: torch.device) -> Backend:
    """Return the fastest backend for training VAE-GANs, and for distances to manifolds.

    Args, errors and `PLAIN` as for `for_cohorts`.
    """
    if not _is_accelerated(device):
        return PLAIN
    return Backend(
        name=NAME,
        make_adam=make_fast_adam,
        prepare=vaegan_layers.prepare,
        prepare_decoder=vaegan_layers.prepare_decoder,
    )


def _is_accelerated(device: torch.device) -> bool:
    """Whether the accelerated backend is chosen and supports the device."""
    return read_backend_name() != PLAIN.name and device.type in ("cpu", "cuda")


def make_cpu_backend() -> Backend:
    """Return the backend of cohorts on a CPU: faster layers, and an Adam that imports faster."""
    return Backend(
        name=NAME,
        forward=batched_forward,
        make_adam=make_fast_adam,
        prepare=vaegan_layers.prepare,
        prepare_decoder=vaegan_layers.prepare_decoder,
    )


def make_cuda_backend() -> Backend:
    """Return the backend of cohorts on a GPU: kernels, CUDA graphs, and threads that draw starts.

    The kernels are verified when they are first used.
    """
    verifier = Verifier()
    return Backend(
        name=NAME,
        forward=verify_forward(verifier, batched_forward),
        ascend=verify_ascend(verifier, ascend),
        sample_starts=sample_starts_in_threads,
        compile_step=CudaGraphed,
        make_adam=make_fast_adam,
        prepare=vaegan_layers.prepare,
        prepare_decoder=vaegan_layers.prepare_decoder,
    )
