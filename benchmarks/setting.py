"""What the benchmarks share: letters, models trained on them, and measurements."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from memory import peak_mb, reset_peak
from timing import seconds_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from robustgen import device
from robustgen.acceleration import backends
from robustgen.data import font_prototypes as fonts
from robustgen.data.font_codes import draw_codes
from robustgen.data.split import Split, load_split
from robustgen.io.parquet import write_table
from robustgen.io.tensors import save_tensors
from robustgen.models.cohort import Cohort
from robustgen.sampling import make_generator
from robustgen.specs import MEMBERS, AdversarialTraining, SearchConfig, Threat, TrainConfig
from robustgen.training.classifiers import Generators, train

Row = dict[str, object]
"""A row of the table of results, by column."""
DEVICE = device.setup()
COHORTS, VAEGANS = backends.for_cohorts(DEVICE), backends.for_vaegans(DEVICE)
"""The backends of this machine. With ROBUSTGEN_BACKEND=plain the plain definitions are measured."""
LETTERS = "ABCDEFGHIJ"
SCHEDULE = TrainConfig(
    epochs=20, batch_size=100, learning_rate=0.01, learning_rate_decay=0.95, weight_decay=1e-4
)
STRONG = {name: search for name, search in MEMBERS.items() if name != "auto_margin"}
"""The ensemble of the configs, by the names of its members."""
ADVERSARIAL = AdversarialTraining(Threat("image", "linf", 0.3), SearchConfig("adam", 0.04, 5))


def load_letters(
    train_images_per_glyph: int = 4, test_images_per_glyph: int = 2
) -> dict[str, Split]:
    """Return the train and test split of FONTS with 1000 glyphs: 10 letters in 100 fonts."""
    prototypes = torch.as_tensor(fonts.draw_prototypes(100, LETTERS).images)
    table = draw_codes(
        study_seed=0,
        dataset="fonts",
        fonts=100,
        letters=LETTERS,
        transformations="hard",
        train_images_per_glyph=train_images_per_glyph,
        test_images_per_glyph=test_images_per_glyph,
    )
    with TemporaryDirectory() as folder:
        images, examples = Path(folder, "images.safetensors"), Path(folder, "examples.parquet")
        save_tensors(images, {"images": prototypes.flatten(0, 1)[:, None]}, {})
        write_table(examples, table, table.schema)
        return {split: load_split(images, examples, split, DEVICE) for split in ("train", "test")}


def make_cohort(n_models: int) -> Cohort:
    """Make a cohort of untrained models with random weights."""
    cohort = Cohort("convnet", (1, 28, 28), len(LETTERS), range(n_models), COHORTS).to(DEVICE)
    cohort.initialize([make_generator(0, "initialization", seed) for seed in range(n_models)])
    return cohort


def train_cohort(
    data: Split, method: AdversarialTraining | None = None, n_models: int = 1
) -> Cohort:
    """Train the paper's classifiers on all of `data`."""
    cohort = make_cohort(n_models)
    batch_generators, attack_generators = (
        [make_generator(0, purpose, seed) for seed in range(n_models)]
        for purpose in ("batches", "attacks")
    )
    train(cohort, data, SCHEDULE, method, Generators(batch_generators, attack_generators))
    return cohort


@dataclass(frozen=True)
class Variant:
    """One of the implementations, or settings, that a benchmark compares.

    Attributes:
        run: computes it once; may return a dictionary with `peak_mb`, measured elsewhere.
        work: images x iterations of a run, of all models together.
        is_peer: whether it is the implementation of another project.
        measure_seconds: runs it and returns the seconds; None if `run` is to be timed.
    """

    run: Callable[[], object]
    work: int
    is_peer: bool = False
    measure_seconds: Callable[[], float] | None = None


def measure(
    benchmark: str,
    variants: Mapping[str, Variant],
    flop: float | None = None,
    rounds: int = 5,
) -> list[Row]:
    """Measure the variants; a row for each, with medians over the rounds.

    In each round all variants take turns, because shared machines change their speed over time.

    Args:
        benchmark: name of the comparison.
        variants: by name. Speeds are relative to the fastest peer, or to the first variant if
            there is no peer.
        flop: floating-point operations per image and iteration of the plain implementation. A
            variant that needs fewer has a higher rate.
        rounds: after one that measures the memory.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    memory = {name: _measure_peak_mb(variant.run) for name, variant in variants.items()}
    for _ in range(rounds):
        for name, variant in variants.items():
            measure_seconds = variant.measure_seconds
            seconds[name].append(measure_seconds() if measure_seconds else seconds_of(variant.run))
    unit_seconds = {name: median(seconds[name]) / variants[name].work for name in variants}
    peers = [unit_seconds[name] for name, variant in variants.items() if variant.is_peer]
    reference = min(peers) if peers else next(iter(unit_seconds.values()))
    rows: list[Row] = []
    for name in variants:
        gflop_per_second = None if flop is None else flop / unit_seconds[name] / 1e9
        rows.append(
            {
                "benchmark": benchmark,
                "variant": name,
                "seconds": median(seconds[name]),
                "times_as_fast": reference / unit_seconds[name],
                "image_iterations_per_second": 1 / unit_seconds[name],
                "gflop_per_second": gflop_per_second,
                "share_of_product_rate": gflop_per_second and gflop_per_second / PRODUCT_RATE,
                "peak_mb": memory[name],
            }
        )
        print(
            "{benchmark}, {variant}: {seconds:.3g} s, {times_as_fast:.2f} times".format(**rows[-1])
        )
    return rows


def _measure_peak_mb(run: Callable[[], object]) -> float | None:
    """Return the peak memory in MB of a run, of this process or as another process reports it."""
    reset_peak(DEVICE)
    result = run()
    return result["peak_mb"] if isinstance(result, dict) else peak_mb(DEVICE)


def count_flop(run: Callable[[], object]) -> float:
    """Count the FLOP of convolutions and matrix products of a run in PyTorch's own layers."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def count_pass_flop(model: nn.Module, backward: bool = True) -> float:
    """Count the FLOP of a forward pass of one image, and of the backward pass to the image."""
    x = torch.rand(1, 1, 28, 28, device=DEVICE).requires_grad_()
    if not backward:
        return count_flop(lambda: model(x.detach()))
    return count_flop(lambda: model(x).sum().backward(inputs=[x]))


def measure_product_rate(size: int = 1024) -> float:
    """Measure the GFLOP/s of a product of two square matrices."""
    a, b = torch.rand(2, size, size, device=DEVICE)
    seconds = min(seconds_of(lambda: a @ b) for _ in range(20))
    return 2 * size**3 / seconds / 1e9


PRODUCT_RATE = measure_product_rate()


def describe_machine() -> str:
    """Name the processor and the threads in use, or the GPU."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = next(iter(names), platform.processor())
    return f"{name}, {torch.get_num_threads()} of {os.cpu_count()} threads"
