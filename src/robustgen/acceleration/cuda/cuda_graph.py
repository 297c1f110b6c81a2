"""Steps on a GPU that are captured as a CUDA graph once and then replayed.

A training step of small models is some thousand kernels of a few microseconds each, which a GPU
finishes faster than Python can launch them. A CUDA graph launches all of them at once;
`benchmarks/gpu.py` measures the gain.
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from robustgen.backend import Step

log = logging.getLogger("robustgen")


class _Captured(NamedTuple):
    """A captured graph, and the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


class CudaGraphed:
    """A step whose work on a GPU is captured and replayed; on a CPU it is called.

    For each input shape, the first call runs eagerly (warm-up), the second is captured as a CUDA
    graph, later calls replay it. All other tensors that the step uses must keep their addresses,
    and it must not synchronize with the GPU. A step that cannot be captured is called each time,
    with one warning in the log.

    Outputs are overwritten by the next call with the same shapes.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._graphs: dict[tuple[torch.Size, ...], _Captured | None] = {}
        self._is_uncapturable = False

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Return the outputs of the step for `inputs`."""
        if not inputs[0].is_cuda or self._is_uncapturable:
            return self._step(*inputs)
        shapes = tuple(tensor.shape for tensor in inputs)
        if shapes not in self._graphs:
            self._graphs[shapes] = None
            return _warm_up(self._step, inputs)
        captured = self._graphs[shapes]
        if captured is None:
            try:
                captured = _capture(self._step, inputs)
            except RuntimeError as error:
                reason = str(error).split("\n")[0]
                log.warning("a step cannot be captured as a CUDA graph and is slower: %s", reason)
                self._is_uncapturable = True
                return self._step(*inputs)
            self._graphs[shapes] = captured
        for graph_input, tensor in zip(captured.inputs, inputs, strict=True):
            graph_input.copy_(tensor)
        captured.graph.replay()
        return captured.outputs


def _warm_up(step: Step, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Run the step eagerly on a side stream, as PyTorch requires before a capture."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        outputs = step(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    return outputs


def _capture(step: Step, inputs: Sequence[Tensor]) -> _Captured:
    """Capture the step, with copies of the inputs whose addresses stay."""
    graph_inputs = [tensor.clone() for tensor in inputs]
    stream = torch.cuda.current_stream()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    try:
        with torch.cuda.graph(graph):
            outputs = step(*graph_inputs)
    finally:
        torch.cuda.set_stream(stream)  # a capture that fails does not restore the stream
    return _Captured(graph, graph_inputs, outputs)
