"""What the fast pass of an attacked cohort gains: full searches, computed in three ways.

    python benchmarks/passes.py

The plain stack is the architecture mapped over the models; folding leaves batch normalization out
of it; stacking computes the models as one wide one. All are measured in turns in one run; what
counts is the ratio.
"""

import time
from statistics import median

import torch

from robustgen import device
from robustgen.attack import Search, search
from robustgen.cohort import Cohort
from robustgen.datasets import Split
from robustgen.folding import folded
from robustgen.seeding import generator
from robustgen.spaces import Threat, image
from robustgen.stacking import stacked, vectorized

MODELS, EXAMPLES, STEPS, ROUNDS = 3, 50, 20, 9

here = device.setup()
models = Cohort("convnet", (1, 28, 28), 10, range(MODELS)).to(here)
models.initialize([generator(0, "benchmark", i) for i in range(MODELS)])
pixels = torch.rand(EXAMPLES, 1, 28, 28, generator=generator(0, "images")).to(here)
rows = torch.arange(EXAMPLES, device=here)
images = Split(pixels, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
batch = images.take(rows.expand(MODELS, -1))

model, held = models.eval()._plain()
state = {name: tensor.detach() for name, tensor in held.items()}
passes = {
    "plain": vectorized(model, state),
    "folded": vectorized(*folded(model, state)),
    "folded and stacked": stacked(*folded(model, state)),
}
seconds = {name: [] for name in passes}
for _ in range(ROUNDS):
    for name, taken in seconds.items():
        rngs = [generator(0, "start", i) for i in range(MODELS)]
        threat, how = Threat("image", "linf", 0.3), Search("adam", 0.005, STEPS)
        start = time.perf_counter()
        found = search(
            passes[name], image(batch), batch.labels, threat, how, rngs, stop_at_success=False
        )
        found.loss.sum().item()
        taken.append(time.perf_counter() - start)
each = 1e6 / (MODELS * EXAMPLES * STEPS)
plain = median(seconds["plain"])
for name, taken in seconds.items():
    ratio = plain / median(taken)
    print(
        f"{name}: {median(taken) * each:.0f} µs per image and iteration, {ratio:.2f} times as fast"
    )
print(f"on {here}")
