"""What folding gains: full searches on the stack as it is attacked and on the plain stack.

    python benchmarks/folding.py

Both are measured in turns in one run; what counts is the ratio.
"""

import time
from statistics import median

import torch

from robustgen import cohort, device
from robustgen.attack import Search, search
from robustgen.datasets import Split
from robustgen.seeding import generator
from robustgen.spaces import Threat, image

MODELS, EXAMPLES, STEPS, ROUNDS = 3, 50, 20, 9

here = device.setup()
models = cohort.Cohort("convnet", (1, 28, 28), 10, range(MODELS)).to(here)
models.initialize([generator(0, "benchmark", i) for i in range(MODELS)])
pixels = torch.rand(EXAMPLES, 1, 28, 28, generator=generator(0, "images")).to(here)
rows = torch.arange(EXAMPLES, device=here)
images = Split(pixels, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
batch = images.take(rows.expand(MODELS, -1))


def plain(model, state):
    """The stack as it is, without gradients for its weights."""
    return model, {name: tensor.detach() for name, tensor in state.items()}


seconds = {plain: [], cohort.folded: []}
for _ in range(ROUNDS):
    for way, taken in seconds.items():
        cohort.folded = way
        models.train().eval()
        rngs = [generator(0, "start", i) for i in range(MODELS)]
        threat, how = Threat("image", "linf", 0.3), Search("adam", 0.005, STEPS)
        start = time.perf_counter()
        found = search(models, image(batch), batch.labels, threat, how, rngs, stop_at_success=False)
        found.loss.sum().item()
        taken.append(time.perf_counter() - start)
before, after = (median(taken) for taken in seconds.values())
each = 1e6 / (MODELS * EXAMPLES * STEPS)
print(f"plain {before * each:.0f}, folded {after * each:.0f} µs per image and iteration")
print(f"{before / after:.2f} times as fast on {here}")
