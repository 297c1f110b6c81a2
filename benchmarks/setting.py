"""What the benchmarks share: letters, models trained on them, and how times are taken."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from memory import forget, peak_mb
from timing import seconds_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data import font_prototypes as fonts
from robustgen.data.font_codes import draw_codes
from robustgen.data.split import Split, load
from robustgen.io.parquet import write_table
from robustgen.io.tensors import save_tensors
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import AdversarialTraining, SearchConfig, Threat, TrainConfig
from robustgen.training.classifiers import Generators, train

Row = dict[str, object]
HERE = device.setup()
COHORTS, VAEGANS = backends.for_cohorts(HERE), backends.for_vaegans(HERE)
"""The backends of this machine; ROBUSTGEN_BACKEND=plain measures the plain definitions."""
LETTERS = "ABCDEFGHIJ"
SCHEDULE = TrainConfig(
    epochs=20, batch_size=100, learning_rate=0.01, learning_rate_decay=0.95, weight_decay=1e-4
)
ADVERSARIAL = AdversarialTraining(Threat("image", "linf", 0.3), SearchConfig("adam", 0.04, 5))


def letters(train_draws: int = 4, test_draws: int = 2) -> dict[str, Split]:
    """FONTS of 100 fonts: by split, 1000 images for each draw."""
    bank = torch.as_tensor(fonts.draw_prototypes(100, LETTERS).images).flatten(0, 1)[:, None]
    table = draw_codes(
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


def trained(data: Split, method: AdversarialTraining | None = None, seeds: int = 1) -> Cohort:
    """The paper's classifiers, trained on all of `data`."""
    of = range(seeds)
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), of, COHORTS).to(HERE)
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


@dataclass(frozen=True)
class Way:
    """One way to do what a benchmark compares.

    Attributes:
        run: does it once.
        work: images x iterations of it, of all models together.
        peer: whether it is somebody else's.
        seconds: of a run, where the one who runs it takes the time.
    """

    run: Callable[[], object]
    work: int
    peer: bool = False
    seconds: Callable[[], float] | None = None


def measured(
    benchmark: str, ways: Mapping[str, Way], flop: float | None = None, rounds: int = 5
) -> list[Row]:
    """A row for each way, of the medians of rounds in which all take turns.

    These machines are shared: only what was measured in turns may be compared.

    Args:
        benchmark: what is compared.
        ways: the first is what the others are compared with, unless some are peers: then the
            fastest of these is.
        flop: operations of an image and iteration, as the plain way does them: one that needs
            fewer has a higher rate.
        rounds: after one that does not count, in which memory is looked at.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    memory = {name: _peak(way.run) for name, way in ways.items()}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(way.seconds() if way.seconds else seconds_of(way.run))
    each = {name: median(taken[name]) / ways[name].work for name in ways}
    peers = [each[name] for name, way in ways.items() if way.peer]
    reference = min(peers) if peers else next(iter(each.values()))
    rows: list[Row] = []
    for name in ways:
        rate = None if flop is None else flop / each[name] / 1e9
        rows.append(
            {
                "benchmark": benchmark,
                "way": name,
                "seconds": median(taken[name]),
                "times_as_fast": reference / each[name],
                "image_iterations_per_second": 1 / each[name],
                "gflop_per_second": rate,
                "share_of_product_rate": rate and rate / PRODUCT_RATE,
                "peak_mb": memory[name],
            }
        )
        print("{benchmark}, {way}: {seconds:.3g} s, {times_as_fast:.2f} times".format(**rows[-1]))
    return rows


def _peak(run: Callable[[], object]) -> float | None:
    """Memory in MB at most while it runs, here or as another process says."""
    forget(HERE)
    made = run()
    return made["peak_mb"] if isinstance(made, dict) else peak_mb(HERE)


def operations(run: Callable[[], object]) -> float:
    """FLOP of a run in PyTorch's own layers, as PyTorch counts: of convolutions and products."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def look(model: nn.Module, back: bool = True) -> float:
    """FLOP of a pass of one image: forward, and back to it."""
    x = torch.rand(1, 1, 28, 28, device=HERE).requires_grad_()
    return operations(lambda: model(x).sum().backward(inputs=[x]) if back else model(x.detach()))


def product_rate(size: int = 1024) -> float:
    """GFLOP/s of a product of two square matrices."""
    one, other = torch.rand(2, size, size, device=HERE)
    seconds = min(seconds_of(lambda: one @ other) for _ in range(20))
    return 2 * size**3 / seconds / 1e9


PRODUCT_RATE = product_rate()


def machine() -> str:
    """The processor, or the GPU, and how much of it is used."""
    if HERE.type == "cuda":
        return torch.cuda.get_device_name(HERE)
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = next(iter(named), platform.processor())
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads"
