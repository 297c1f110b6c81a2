"""Work on a GPU that is recorded once and then replayed.

A step of small models is some thousand kernels of a few microseconds each, which a GPU ends sooner
than Python can start them. As one CUDA graph they start at once (`benchmarks/gpu.py`).
"""

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

log = logging.getLogger("robustgen")

Function = Callable[..., Sequence[Tensor]]


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class CudaGraphed:
    """A function of tensors, whose work on a GPU is recorded and replayed; on a CPU it is called.

    The first call with tensors of some shapes is plain, the second is recorded, further ones are
    replayed. Whatever else the function reads or writes must stay where it is in memory, and it
    must not wait for the GPU. What cannot be recorded is called each time, with a warning.

    Outputs are overwritten by the next call with the same shapes.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._graphs: dict[tuple[torch.Size, ...], _Captured | None] = {}
        self._is_uncapturable = False

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """What the function gives for `inputs`."""
        if not inputs[0].is_cuda or self._is_uncapturable:
            return self._function(*inputs)
        shapes = tuple(of.shape for of in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = None
            return _warm_up(self._function, inputs)
        recorded = self._graphs[shapes]
        if recorded is None:
            try:
                recorded = _capture(self._function, inputs)
            except RuntimeError as error:
                log.warning("cannot be recorded, and takes longer: %s", str(error).split("\n")[0])
                self._is_uncapturable = True
                return self._function(*inputs)
            self._graphs[shapes] = recorded
        for held, given in zip(recorded.inputs, inputs, strict=True):
            held.copy_(given)
        recorded.graph.replay()
        return recorded.outputs


def _warm_up(function: Function, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """On a stream of its own, as what is to be recorded must have run before."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        made = function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    return made


def _capture(function: Function, inputs: Sequence[Tensor]) -> _Captured:
    held, before = [of.clone() for of in inputs], torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            made = function(*held)
    finally:
        torch.cuda.set_stream(before)  # which a recording that fails does not set back
    return _Captured(graph, held, made)
