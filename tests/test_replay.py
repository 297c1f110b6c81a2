"""On a CPU, a step that a GPU would capture and replay is called each time."""

import torch

from robustgen.acceleration.cuda.cuda_graph import CudaGraphed


def test_a_step_is_called_each_time_on_a_cpu():
    calls = []

    def add_one(x):
        calls.append(x)
        return [x + 1]

    step = CudaGraphed(add_one)
    assert [step(torch.tensor(i))[0].item() for i in range(4)] == [1, 2, 3, 4]
    assert len(calls) == 4
