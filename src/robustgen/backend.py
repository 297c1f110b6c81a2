"""The operations that may be computed faster, with their plain definitions.

Attacks, training and evaluation call the operations of a `Backend`. `PLAIN` defines what each
operation computes. The package `acceleration` has faster implementations, and
`acceleration.backends` is the one place that chooses a backend. ROBUSTGEN_BACKEND=plain chooses
`PLAIN`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

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


class Optimizer(Protocol):
    """The part of `torch.optim.Optimizer` that this package uses.

    Attributes:
        param_groups: dictionaries with `params` and the learning rate `lr`.
    """

    param_groups: list[dict[str, Any]]

    @property
    def state(self) -> Any:
        """Return the dictionaries of tensors by parameter."""

    def zero_grad(self) -> None:
        """Drop the gradients."""

    def step(self) -> object:
        """Update every parameter that has a gradient."""


BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
"""Constants of Adam, equal to the defaults of PyTorch."""

MakeAdam = Callable[[Iterable[Tensor], float, float], Optimizer]
"""A function that makes Adam from parameters, a learning rate and a weight decay."""


def make_adam(params: Iterable[Tensor], lr: float, weight_decay: float = 0.0) -> Optimizer:
    """Make PyTorch's Adam (Kingma and Ba, ICLR 2015), with weight decay as an L2 penalty."""
    return torch.optim.Adam(params, lr, weight_decay=weight_decay)


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the next steps."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):  # a CUDA graph reads it from memory at each step
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


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
