"""A cohort: M classifiers that differ only in their seed, as one set of stacked tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustgen.backend import PLAIN, Backend, ForwardFn, State, functional_forward, vmapped_forward
from robustgen.errors import UserError
from robustgen.io.tensors import load_tensors, save_tensors, version_key
from robustgen.models import architectures
from robustgen.specs import require_instance, require_name, require_number
from robustgen.tensor_checks import require_generators


class Cohort(nn.Module):
    """M models of one architecture: images `(M, B, C, H, W)` to logits `(M, B, K)`.

    Parameters and buffers are those of the architecture with a leading axis M, as in
    `torch.func.stack_module_state`. In eval mode the weights are constants: gradients are with
    respect to images only.

    Attributes:
        seeds: the M seeds, which identify the members.
        stacked_params: parameters and buffers `(M, ...)`; "." in their names is written "__".
        backend: computes the forward pass.

    Examples:
        >>> import robustgen, torch
        >>> cohort = robustgen.Cohort("convnet", (1, 28, 28), classes=10, seeds=[0, 1, 2])
        >>> cohort.initialize([torch.Generator().manual_seed(seed) for seed in cohort.seeds])
        >>> cohort.eval()(torch.rand(3, 5, 1, 28, 28)).shape
        torch.Size([3, 5, 10])
        >>> cohort.member(0)(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        architecture: str,
        shape: tuple[int, int, int],
        classes: int,
        seeds: Sequence[int],
        backend: Backend = PLAIN,
    ) -> None:
        """Make a cohort whose weights are zero until `initialize` is called.

        Args:
            architecture: a key of `models.architectures.ARCHITECTURES`.
            shape: C, H and W of the images.
            classes: K, number of classes.
            seeds: M different seeds, which identify the members.
            backend: computes the forward pass.

        Raises:
            ValueError: an argument is not as described; the message names it.
        """
        super().__init__()
        require_name("architecture", architecture, architectures.ARCHITECTURES)
        require_number("classes", classes, 2, is_integer=True)
        is_shape = isinstance(shape, tuple) and len(shape) == 3
        if not is_shape or not all(isinstance(size, int) and size > 0 for size in shape):
            raise ValueError(f"shape is {shape!r}, but must be the integers (C, H, W)")
        are_seeds = isinstance(seeds, Sequence) and all(isinstance(seed, int) for seed in seeds)
        if not are_seeds or not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"seeds are {seeds!r}, but must be one or more different integers")
        require_instance("backend", backend, Backend)
        self._eval_cache: tuple[list[Tensor], object, ForwardFn] | None = None
        self.architecture, self.shape, self.classes = architecture, shape, classes
        self.seeds, self.backend = list(seeds), backend
        with torch.device("meta"):
            # A list hides the module, whose parameters are not parameters of the cohort.
            self._model = [architectures.build(architecture, shape, classes)]
        self.stacked_params = nn.Module()
        for name, parameter in self._model[0].named_parameters():
            values = nn.Parameter(torch.zeros(len(seeds), *parameter.shape))
            self.stacked_params.register_parameter(_to_attr_name(name), values)
        for name, buffer in self._model[0].named_buffers():
            zeros = torch.zeros(len(seeds), *buffer.shape, dtype=buffer.dtype)
            self.stacked_params.register_buffer(_to_attr_name(name), zeros)

    def initialize(self, generators: Sequence[torch.Generator]) -> None:
        """Set Glorot-uniform weights (Glorot and Bengio 2010) and zero biases.

        Args:
            generators: M CPU generators, one per member.

        Raises:
            ValueError: there is not one generator for each member.
        """
        require_generators("generators", generators, len(self.seeds))
        model = self._model[0]
        for name, parameter in model.named_parameters():
            values = getattr(self.stacked_params, _to_attr_name(name)).data
            for member_values, generator in zip(values, generators, strict=True):
                if parameter.dim() > 1:
                    weight = torch.empty(parameter.shape)
                    nn.init.xavier_uniform_(weight, generator=generator)
                    member_values.copy_(weight)
                else:  # scales of batch normalization are 1, every bias is 0
                    member_values.fill_(1.0 if _is_norm_weight(model, name) else 0.0)
        for name, _ in model.named_buffers():
            is_variance = name.endswith("running_var")
            getattr(self.stacked_params, _to_attr_name(name)).fill_(1 if is_variance else 0)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.stacked_params.parameters()).device

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(M, B, K)` of images `(M, B, C, H, W)`; member i takes `images[i]`.

        Raises:
            ValueError: the images have another shape.
        """
        shape = images.shape[:1] + images.shape[2:]
        if images.dim() != 5 or shape != (len(self.seeds), *self.shape):
            axes = ", ".join(map(str, (len(self.seeds), "B", *self.shape)))
            raise ValueError(f"images have the shape {tuple(images.shape)}, but must have ({axes})")
        if self.training:
            return self.backend.forward(*self._module_and_state())(images)
        return self.eval_forward()(images)

    def eval_forward(self) -> ForwardFn:
        """Return the backend's forward pass of eval mode, with constant weights.

        It is built once, and again after a tensor was modified in place, except through `.data`.
        """
        if self._eval_cache is None or version_key(*self._eval_cache[0]) != self._eval_cache[1]:
            model, state = self._module_and_state()
            tensors = list(state.values())
            constants = {name: tensor.detach() for name, tensor in state.items()}
            self._eval_cache = (
                tensors,
                version_key(*tensors),
                self.backend.forward(model, constants),
            )
        return self._eval_cache[2]

    def reference_forward(self, images: Tensor) -> Tensor:
        """Return eval-mode logits `(M, B, K)` of unmodified PyTorch layers, without gradients.

        Successes are verified with this reference, never with the forward pass of a backend. On a
        GPU the members are mapped with `vmap`, which needs fewer kernel launches than a loop.
        """
        model = self._model[0].eval()
        params = self.stacked_params.state_dict()
        state = {_to_state_name(name): tensor for name, tensor in params.items()}
        with torch.no_grad():
            if images.is_cuda:
                logits = vmapped_forward(model, state)(images)
            else:
                logits = torch.stack(
                    [
                        functional_forward(model, _select_member(state, member), member_images)
                        for member, member_images in enumerate(images)
                    ]
                )
        model.train(self.training)
        return logits

    def train(self, mode: bool = True) -> "Cohort":
        """Set train or eval mode, and drop the cached forward pass."""
        self._eval_cache = None
        super().train(mode)
        return self

    def member(self, position: int) -> nn.Module:
        """Copy the member at `position` to a plain module, in eval mode and on the same device.

        Raises:
            ValueError: the cohort has no member at this position.
        """
        if not (isinstance(position, int) and 0 <= position < len(self.seeds)):
            raise ValueError(
                f"position is {position!r}, but must be from 0 to {len(self.seeds) - 1}, one for "
                "each seed"
            )
        model = architectures.build(self.architecture, self.shape, self.classes)
        state = {
            _to_state_name(name): tensor[position].clone()
            for name, tensor in self.stacked_params.state_dict().items()
        }
        model.load_state_dict(state)
        device = next(iter(state.values())).device
        return model.to(device).eval()

    def save(self, path: str | Path, settings: dict[str, Any], provenance: dict[str, str]) -> None:
        """Write the weights as one safetensors file, with settings and provenance in its header."""
        header = {
            "architecture": self.architecture,
            "shape": self.shape,
            "classes": self.classes,
            "seeds": self.seeds,
            "settings": settings,
            "provenance": provenance,
        }
        params = self.stacked_params.state_dict()
        state = {_to_state_name(name): tensor for name, tensor in params.items()}
        save_tensors(path, state, header)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: torch.device | str = "cpu",
        backend: Backend = PLAIN,
    ) -> "Cohort":
        """Load a saved cohort, in eval mode.

        Raises:
            UserError: the file is missing or damaged, or is no file of a cohort.
        """
        state, header = load_tensors(path, device)
        if "architecture" not in header:
            raise UserError(f"{path} is no file of classifiers")
        shape = tuple(header["shape"])
        cohort = cls(header["architecture"], shape, header["classes"], header["seeds"], backend)
        cohort.to(device)
        params = {_to_attr_name(name): tensor for name, tensor in state.items()}
        cohort.stacked_params.load_state_dict(params)
        return cohort.eval()

    def _module_and_state(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """Return the architecture in the mode of the cohort, and the state of all members."""
        params = dict(self.stacked_params.named_parameters())
        tensors = {**params, **dict(self.stacked_params.named_buffers())}
        state = {_to_state_name(name): tensor for name, tensor in tensors.items()}
        return self._model[0].train(self.training), state

    def _apply(self, *args: Any, **kwargs: Any) -> "Cohort":
        """Apply a change of device or type, and drop the cached forward pass of the old tensors."""
        self._eval_cache = None
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self


def _select_member(state: State, member: int) -> dict[str, Tensor]:
    """Return the state of one member."""
    return {name: tensor[member] for name, tensor in state.items()}


def _to_attr_name(name: str) -> str:
    """Return the name of a parameter or buffer as an attribute, which must not contain "."."""
    return name.replace(".", "__")


def _to_state_name(name: str) -> str:
    """Return the name of a parameter or buffer from a name that `_to_attr_name` returned."""
    return name.replace("__", ".")


def _is_norm_weight(model: nn.Module, name: str) -> bool:
    """Whether a parameter is the scale of batch normalization."""
    owner, _, key = name.rpartition(".")
    return key == "weight" and "Norm" in type(model.get_submodule(owner)).__name__


NO_CLASS = -1
"""The prediction where several classes share the highest logit. It is wrong for every label."""


def predict_class(logits: Tensor) -> Tensor:
    """Return the class with the highest logit, or `NO_CLASS` where several classes share it.

    `argmax` alone returns the first of equal logits, so a model with constant logits would count as
    correct for class 0.

    Args:
        logits: `(..., K)`.

    Returns:
        `(...)` classes, int64.
    """
    highest = logits.max(-1, keepdim=True)
    is_tied = (logits == highest.values).sum(-1) > 1
    return highest.indices.squeeze(-1).masked_fill(is_tied, NO_CLASS)
