"""On a CPU a function that a GPU would replay is called; `test_gpu` tests the replay."""

import torch

from robustgen.acceleration.cuda.cuda_graph import CudaGraphed


def test_on_a_cpu_it_is_called():
    calls = []

    def add_one(x):
        calls.append(x)
        return [x + 1]

    step = CudaGraphed(add_one)
    assert [step(torch.tensor(i))[0].item() for i in range(4)] == [1, 2, 3, 4]
    assert len(calls) == 4
