"""What the benchmarks share: letters, models trained on them, and how times are taken."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from robustgen import device, fonts
from robustgen.attack import Search
from robustgen.cohort import Cohort
from robustgen.datasets import Split, load
from robustgen.datasets.fonts import draw
from robustgen.files import write_table
from robustgen.seeding import generator
from robustgen.spaces import Threat
from robustgen.tensors import save_tensors
from robustgen.training import Generators, Method, Schedule, train

HERE = device.setup()
LETTERS = "ABCDEFGHIJ"
SCHEDULE = Schedule(epochs=20, batch_size=100, rate=0.01, rate_decay=0.95, weight_decay=1e-4)
ADVERSARIAL = Method(Threat("image", "linf", 0.3), Search("adam", 0.04, 5))


def letters(train_draws: int = 4, test_draws: int = 2) -> dict[str, Split]:
    """FONTS of 100 fonts: by split, 1000 images for each draw."""
    bank = torch.as_tensor(fonts.prototypes(100, LETTERS).images).flatten(0, 1)[:, None]
    table = draw(
        study_seed=0,
        dataset="fonts",
        fonts=100,
        letters=LETTERS,
        transformations="hard",
        train_draws=train_draws,
        test_draws=test_draws,
    )
    with TemporaryDirectory() as folder:
        images, examples = Path(folder, "images.safetensors"), Path(folder, "examples.parquet")
        save_tensors(images, {"images": bank}, {})
        write_table(examples, table, table.schema)
        return {split: load(images, examples, split, HERE) for split in ("train", "test")}


def trained(data: Split, method: Method | None = None, seeds: int = 1) -> Cohort:
    """The paper's classifiers, trained on all of `data`."""
    of = range(seeds)
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), of).to(HERE)
    cohort.initialize([generator(0, "initialization", seed) for seed in of])
    batches = [generator(0, "batches", seed) for seed in of]
    train(
        cohort,
        data,
        SCHEDULE,
        method,
        Generators(batches, [generator(0, "attacks", s) for s in of]),
    )
    return cohort


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, all of them measured once in each round.

    These machines are shared: only what was measured in turns may be compared.
    """
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if HERE.type == "cuda":
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


def product_rate(size: int = 1024) -> float:
    """GFLOP/s of a product of two square matrices."""
    one, other = torch.rand(2, size, size, device=HERE)
    seconds = in_turns({"product": lambda: one @ other}, rounds=20)["product"]
    return 2 * size**3 / seconds / 1e9


def machine() -> str:
    """The processor, or the GPU, and how much of it is used."""
    if HERE.type == "cuda":
        return torch.cuda.get_device_name(HERE)
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = next(iter(named), platform.processor())
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads"
