"""A cohort: M classifiers that differ only in their seed, computed as one stack of tensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustgen.acceleration.batched_forward import Pass, alone, stacked, vectorized
from robustgen.acceleration.fold_batch_norm import folded
from robustgen.io.tensors import load_tensors, save_tensors, written
from robustgen.models import architectures as networks


class Cohort(nn.Module):
    """M models of one architecture: images `(M, B, C, H, W)` to logits `(M, B, K)`.

    Parameters and buffers are those of the architecture with a leading axis M; `stacking` makes
    the forward pass of all from the architecture. In eval mode the weights are constants:
    gradients flow to the images alone.

    Attributes:
        seeds: the M seeds, which name the members.
        stack: parameters and buffers `(M, ...)` by name ("." is written "__").
    """

    def __init__(
        self, architecture: str, shape: tuple[int, int, int], classes: int, seeds: Sequence[int]
    ) -> None:
        super().__init__()
        self._kept: tuple[list[Tensor], object, Pass] | None = None
        self.architecture, self.shape, self.classes = architecture, shape, classes
        self.seeds = list(seeds)
        with torch.device("meta"):
            self._model = [networks.build(architecture, shape, classes)]  # a list hides it
        self.stack = nn.Module()
        model = self._model[0]
        for name, weights in model.named_parameters():
            stacked = nn.Parameter(torch.zeros(len(seeds), *weights.shape))
            self.stack.register_parameter(_flat(name), stacked)
        for name, buffer in model.named_buffers():
            held = torch.zeros(len(seeds), *buffer.shape, dtype=buffer.dtype)
            self.stack.register_buffer(_flat(name), held)

    def initialize(self, generators: Sequence[torch.Generator]) -> None:
        """Glorot-uniform weights (Glorot & Bengio 2010), zero biases, one generator a member."""
        model = self._model[0]
        for name, parameter in model.named_parameters():
            stacked = getattr(self.stack, _flat(name)).data
            for member, rng in zip(stacked, generators, strict=True):
                if parameter.dim() > 1:
                    held = torch.empty(parameter.shape)
                    nn.init.xavier_uniform_(held, generator=rng)
                    member.copy_(held)
                else:  # scales of the batch normalization are 1, every bias is 0
                    member.fill_(1.0 if _is_scale(model, name) else 0.0)
        for name, _ in model.named_buffers():
            getattr(self.stack, _flat(name)).fill_(1 if name.endswith("running_var") else 0)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(M, B, K)` of images `(M, B, C, H, W)`: member i sees `images[i]`."""
        passed = stacked(*self._plain()) if self.training else self.frozen()
        return passed(images)

    def train(self, mode: bool = True) -> "Cohort":
        """Set the mode; what was kept for the other one is dropped."""
        self._kept = None
        super().train(mode)
        return self

    def _plain(self) -> tuple[nn.Module, dict[str, Tensor]]:
        held = {**dict(self.stack.named_parameters()), **dict(self.stack.named_buffers())}
        return self._model[0].train(self.training), {_dotted(k): v for k, v in held.items()}

    def frozen(self) -> Pass:
        """The pass of eval mode, with what `folded` makes of the weights.

        It is made again whenever a tensor was written to, but not through its `data`.
        """
        if self._kept is None or written(*self._kept[0]) != self._kept[1]:
            model, state = self._plain()
            held = list(state.values())
            self._kept = held, written(*held), stacked(*folded(model, state))
        return self._kept[2]

    def _apply(self, *args: Any, **kwargs: Any) -> "Cohort":
        """Move to another device or type, where buffers are other tensors."""
        self._kept = None
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def member(self, position: int) -> nn.Module:
        """Member `position` as a plain module of its own, in eval mode, on the same device."""
        model = networks.build(self.architecture, self.shape, self.classes)
        state = {_dotted(k): v[position].clone() for k, v in self.stack.state_dict().items()}
        model.load_state_dict(state)
        device = next(iter(state.values())).device
        return model.to(device).eval()

    def plainly(self, images: Tensor) -> Tensor:
        """As `forward` in eval mode, but by the architecture's own pass and PyTorch's own layers.

        What is said of an adversarial example is said of the plain model, whatever makes a search
        fast. On a GPU, whose work is hard to start for each member, the pass is mapped over them.
        """
        model = self._model[0].eval()
        state = {_dotted(name): of for name, of in self.stack.state_dict().items()}
        with torch.no_grad():
            if images.is_cuda:
                made = vectorized(model, state)(images)
            else:
                members = ({name: of[i] for name, of in state.items()} for i in range(len(images)))
                passes = zip(members, images, strict=True)
                made = torch.stack([alone(model, member, x) for member, x in passes])
        model.train(self.training)
        return made

    def save(self, path: str | Path, settings: dict[str, Any], provenance: dict[str, str]) -> None:
        """Write weights, and in the header what made them, as one safetensors file."""
        about = {
            "architecture": self.architecture,
            "shape": self.shape,
            "classes": self.classes,
            "seeds": self.seeds,
            "settings": settings,
            "provenance": provenance,
        }
        state = {_dotted(name): tensor for name, tensor in self.stack.state_dict().items()}
        save_tensors(path, state, about)

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> "Cohort":
        """A cohort as saved, in eval mode.

        Raises:
            UserError: the file is missing or damaged.
        """
        state, about = load_tensors(path, device)
        shape = tuple(about["shape"])
        cohort = cls(about["architecture"], shape, about["classes"], about["seeds"])
        cohort.to(device)
        cohort.stack.load_state_dict({_flat(name): tensor for name, tensor in state.items()})
        return cohort.eval()


def _flat(name: str) -> str:
    return name.replace(".", "__")


def _dotted(name: str) -> str:
    return name.replace("__", ".")


def _is_scale(model: nn.Module, name: str) -> bool:
    owner, _, last = name.rpartition(".")
    return last == "weight" and "Norm" in type(model.get_submodule(owner)).__name__
