"""Estimate which share of a study's time each acceleration on a CPU saves.

    python benchmarks/shares.py results/demo

Each acceleration is switched off alone, and a piece of the work of each stage is timed with and
without it, in turns, in CPU seconds. The change of a stage is weighted with the seconds that the
jobs of the finished study took. The measurement takes half an hour and needs an idle machine: on a
busy one, ratios of single pairs differ by a third. The row "nothing" compares equal runs, and shows
how far a ratio deviates by chance.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from learning import METHODS, train_epoch, train_vaegan_epoch
from searches import add_manifolds, search_batches
from setting import DEVICE, VAEGANS, load_letters, train_cohort
from stages import read_jobs
from torch import Tensor

from robustgen.acceleration import batched_forward, training_layers
from robustgen.acceleration.cpu import inference_layers, vaegan_layers
from robustgen.backend import PLAIN
from robustgen.data.decoders import ClassDecoders
from robustgen.data.split import Split
from robustgen.evaluation.distances import measure_to_manifold

IMAGES, ATTACKED_IMAGES, PAIRS = 200, 50, 5


def normalize_by_formula(
    rows: Tensor, weight: Tensor, bias: Tensor, eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `batch_norm_train` by its formula, with autograd's gradients."""
    mean, variance = rows.mean(0), rows.var(0, unbiased=False)
    output = (rows - mean) * (weight * (variance + eps).rsqrt()) + bias
    return output.relu() if relu else output, mean.detach(), variance.detach()


SWITCHES: dict[str, list[tuple[object, str, object]]] = {
    "nothing": [],
    "batch normalization folded (fold_batch_norm)": [
        (batched_forward, "fold_batch_norm", lambda model, state: (model, state))
    ],
    "layers of attacks (cpu.inference_layers)": [
        (batched_forward, "build_layers", lambda *_: None)
    ],
    "strided gradients of attacks (cpu.strided_conv)": [
        (inference_layers, "supports_strided", lambda _: False)
    ],
    "several models together (MODELS_PER_CHUNK)": [(batched_forward, "MODELS_PER_CHUNK", 1)],
    "chunks that fit the cache (CPU_CHUNK_IMAGES)": [
        (batched_forward, "CPU_CHUNK_IMAGES", 1 << 30)
    ],
    "layers of training (training_layers)": [
        (batched_forward, "build_training_forward", lambda *_: None)
    ],
    "batch normalization of training (cpu.batch_norm)": [
        (training_layers, "batch_norm_train", normalize_by_formula)
    ],
    "decoders folded, and layer by layer (fold_decoder)": [
        (vaegan_layers, "fold_decoder", lambda decoder: decoder)
    ],
    "layers of VAE-GANs (cpu.vaegan_layers)": [(vaegan_layers, "FASTER_TYPES", {})],
}
"""By acceleration, the attributes that switch it off."""


@dataclass(frozen=True)
class Work:
    """A piece of the work of some stages.

    Attributes:
        stages: names in the benchmark files.
        run: computes it once.
    """

    stages: tuple[str, ...]
    run: Callable[[], object]


@contextmanager
def switched_off(name: str) -> Iterator[None]:
    """Switch an acceleration off."""
    with ExitStack() as stack:
        for module, attribute, value in SWITCHES[name]:
            stack.enter_context(patch.object(module, attribute, value))
        yield


def make_work() -> list[Work]:
    """Return the work of the stages; all of it prepares its layers when it runs."""
    letters = load_letters(train_images_per_glyph=2)
    data = letters["train"].select(slice(IMAGES)).materialize()
    plain_data = add_manifolds(data)[1]
    cohort = train_cohort(data, n_models=3)

    def train_all_methods() -> None:
        manifold_data = prepare_decoders(plain_data)
        for name in ("normal", "adversarial", "on the true manifold", "on a learned manifold"):
            train_epoch(manifold_data, METHODS[name])

    def attack_in_all_spaces() -> None:
        # A new copy: the forward pass of a cohort is prepared once.
        copy = type(cohort)("convnet", (1, 28, 28), 10, cohort.seeds, cohort.backend).to(DEVICE)
        copy.load_state_dict(cohort.state_dict())
        batch = prepare_decoders(plain_data).select(slice(ATTACKED_IMAGES))
        for space in ("image", "image", "true_manifold", "learned_manifold"):
            search_batches(copy.eval(), batch, space)

    def measure_all_distances() -> None:
        batch = prepare_decoders(plain_data).select(slice(50))
        for space in ("true_manifold", "learned_manifold"):
            measure_to_manifold(
                batch.images(),
                batch,
                space,
                steps=30,
                step_size=0.05,
                make_adam=VAEGANS.make_adam,
            )

    return [
        Work(("train", "judge"), train_all_methods),
        Work(("attack",), attack_in_all_spaces),
        Work(("vaegan",), partial(train_vaegan_epoch, data, VAEGANS, 0.0)),
        Work(("distances", "clean_distances"), measure_all_distances),
    ]


def prepare_decoders(data: Split) -> Split:
    """Return the split with decoders that have the layers which are switched on."""
    learned = {}
    for space, manifold in data.learned.items():
        decoders = [VAEGANS.prepare_decoder(deepcopy(d)) for d in manifold.decoders.decoders]
        copy = ClassDecoders(decoders)
        learned[space] = replace(manifold, decoders=copy)
    return replace(data, learned=learned)


def measure_ratios(work: Work) -> dict[str, float]:
    """Return the time without each acceleration, as a multiple of the time with all of them."""
    work.run()  # the first run takes longer
    return {name: median(measure_pairs(work, name)) for name in SWITCHES}


def measure_pairs(work: Work, name: str) -> Iterator[float]:
    """Yield the CPU time of a run without an acceleration, divided by that of a run with it.

    The two runs of a pair follow each other, in an order that alternates.
    """
    for pair in range(PAIRS):
        seconds: dict[bool, float] = {}
        for is_on in (True, False) if pair % 2 else (False, True):
            with nullcontext() if is_on else switched_off(name):
                start = time.process_time()
                work.run()
                seconds[is_on] = time.process_time() - start
        yield seconds[False] / seconds[True]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    assert PLAIN is not VAEGANS, "ROBUSTGEN_BACKEND must not be plain"
    stage_seconds = read_jobs(Path(sys.argv[1]) / "benchmarks").groupby("stage")["seconds"].sum()
    total = stage_seconds.sum()
    saved = dict.fromkeys(SWITCHES, 0.0)
    for work in make_work():
        weight = stage_seconds.reindex(work.stages).sum()
        print(f"{', '.join(work.stages)}: {weight:.0f} of {total:.0f} s")
        for name, ratio in measure_ratios(work).items():
            print(f"    without {name}: {ratio:.2f} times as long")
            saved[name] += weight * (ratio - 1)
    print("share of the study's time, without the acceleration, that it saves:")
    for name, seconds in sorted(saved.items(), key=lambda item: -item[1]):
        print(f"    {seconds / (total + seconds):6.1%}  {name}")
