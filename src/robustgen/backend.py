"""The seam between the science and its acceleration.

Attacks, training and evaluation call the operations of a `Backend`. `PLAIN` defines what each
operation computes. The package `acceleration` holds faster implementations, and
`acceleration.backends` is the one place that chooses among them. ROBUSTGEN_BACKEND=plain chooses
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
"""A function of tensors that is called often, such as an update of training."""


def functional_forward(model: nn.Module, state: State, images: Tensor) -> Tensor:
    """Logits `(B, K)` of images `(B, C, H, W)`, by one model with these parameters and buffers."""
    logits: Tensor = functional_call(model, dict(state), (images,))
    return logits


def vmapped_forward(model: nn.Module, state: State) -> ForwardFn:
    """The forward pass of M models: the module's own, mapped over the parameters by `vmap`.

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
    """The step itself."""
    return step


def keep_module(module: nn.Module) -> nn.Module:
    """The module itself."""
    return module


@dataclass(frozen=True)
class Backend:
    """Operations that may be computed faster. The defaults define what they compute.

    Attributes:
        name: recorded with the results, and part of the identity of a checkpoint.
        forward: from an architecture and the state of M models to their forward pass. In eval
            mode the state is constant, and only gradients with respect to images are needed.
        ascend: one restart of the search; None is the loop `attacks.search.ascend`.
        sample_starts: random starts of the search.
        compile_step: a step that may be recorded when it is first called, and then replayed. The
            tensors that it reads and writes beside its arguments keep their addresses.
        make_adam: the optimizer of training and of distances.
        prepare: a module whose layers may be replaced in place by faster ones of the same state.
    """

    name: str = "plain"
    forward: Callable[[nn.Module, State], ForwardFn] = vmapped_forward
    ascend: Ascend | None = None
    sample_starts: SampleStarts = sample_starts
    compile_step: Callable[[Step], Step] = keep_step
    make_adam: MakeAdam = make_adam
    prepare: Callable[[nn.Module], nn.Module] = keep_module


PLAIN = Backend()
