"""The state of a training as tensors, for the checkpoints from which it resumes."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from robustgen.backend import Optimizer
from robustgen.io.checkpoints import get_generator_states, set_generator_states


def state_tensors(
    state: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    generators: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    """Collect everything that training changes, as tensors for `load_state_tensors`.

    Tensors of parameters, buffers and optimizers are not copied.

    Args:
        state: parameters and buffers by name.
        optimizers: optimizers whose state consists of tensors, such as Adam.
        generators: the random generators of the training.
    """
    tensors = {f"state.{name}": tensor for name, tensor in state.items()}
    for i, optimizer in enumerate(optimizers):
        for j, parameter in enumerate(_parameters(optimizer)):
            for key, tensor in optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{i}.{j}.{key}"] = tensor
    return tensors | get_generator_states(generators)


@torch.no_grad()
def load_state_tensors(
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    generators: Sequence[torch.Generator],
) -> None:
    """Restore the state that `state_tensors` returned, in place.

    Values are copied into the memory of the given tensors, because the memory layout decides in
    which order convolutions sum.

    Args:
        tensors: the result of `state_tensors`.
        state: parameters and buffers by name, as they are before training.
        optimizers: the optimizers, as they are before training.
        generators: the random generators, in any state.
    """
    for name, tensor in state.items():
        tensor.copy_(tensors[f"state.{name}"])
    for i, optimizer in enumerate(optimizers):
        for j, parameter in enumerate(_parameters(optimizer)):
            prefix = f"optimizer.{i}.{j}."
            saved = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            for key, tensor in saved.items():
                template = parameter if key != "step" else tensor.to(parameter.device)
                restored = torch.empty_like(template).copy_(tensor)
                optimizer.state.setdefault(parameter, {})[key] = restored
    set_generator_states(tensors, generators)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
