"""The operations that may be computed faster, with their plain definitions.

Attacks, training and evaluation call the operations of a `Backend`. `PLAIN` defines what each
operation computes. The package `acceleration` has faster implementations, and
`acceleration.backends` is the one place that chooses a backend. ROBUSTGEN_BACKEND=plain chooses
`PLAIN`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from robustgen.optimizers import MakeAdam, make_adam
from robustgen.sampling import sample_starts
from robustgen.specs import SearchConfig, Threat

State = Mapping[str, Tensor]
"""Parameters and buffers of M models by name, each `(M, ...)`."""
ForwardFn = Callable[[Tensor], Tensor]
"""Images `(M, B, C, H, W)` to logits `(M, B, K)`: member i classifies `images[i]`."""
Step = Callable[..., Sequence[Tensor]]
"""A function of tensors that is called many times, such as a training step."""


def functional_forward(model: nn.Module, state: State, images: Tensor) -> Tensor:
    """Return logits `(B, K)` of images `(B, C, H, W)`, of one model with the state `state`."""
    logits: Tensor = functional_call(model, dict(state), (images,))
    return logits


def vmapped_forward(model: nn.Module, state: State) -> ForwardFn:
    """Return the forward pass of M models: the module's, mapped over the parameters by `vmap`.

    Args:
        model: the architecture, in train or eval mode; its own parameters are not used.
        state: parameters and buffers of the M models. In train mode, batch normalization updates
            its buffers in place.
    """
    return partial(vmap(partial(functional_forward, model)), dict(state))


SampleStarts = Callable[
    [str, Sequence[int], Sequence[int], int, Sequence[torch.Generator], torch.device],
    Iterable[Tensor],
]
"""The signature of `sampling.sample_starts`."""
Ascend = Callable[[Any, Any, Threat, SearchConfig, int, bool], None]
"""The signature of `attacks.search.ascend`, which takes one restart of a search to its end."""


def keep_step(step: Step) -> Step:
    """Return the step itself."""
    return step


def keep_module(module: nn.Module) -> nn.Module:
    """Return the module itself."""
    return module


@dataclass(frozen=True)
class Backend:
    """Operations that may be computed faster. The defaults define what they compute.

    Attributes:
        name: stored with the results, and part of the identity of a checkpoint.
        forward: from an architecture and the state of M models to their forward pass. In eval
            mode the state is constant, and only gradients with respect to images are needed.
        ascend: one restart of the search; None stands for `attacks.search.ascend`.
        sample_starts: random starts of the search.
        compile_step: from a step to a faster one, which may record the first calls and then replay
            them. All tensors that the step uses, except its arguments, must keep their addresses.
        make_adam: the optimizer of training and of distances.
        prepare: from a module to the module, whose layers may be replaced in place by faster ones
            with the same state.
        prepare_decoder: from the decoder of a VAE-GAN, in eval mode, to a module that decodes the
            same images, for searches.
    """

    name: str = "plain"
    forward: Callable[[nn.Module, State], ForwardFn] = vmapped_forward
    ascend: Ascend | None = None
    sample_starts: SampleStarts = sample_starts
    compile_step: Callable[[Step], Step] = keep_step
    make_adam: MakeAdam = make_adam
    prepare: Callable[[nn.Module], nn.Module] = keep_module
    prepare_decoder: Callable[[nn.Module], nn.Module] = keep_module


PLAIN = Backend()
