"""Our search beside public attack libraries, on the same trained models and images.

Attacks with regular examples (L-infinity, signed steps) as everybody has them. "until success" is
for evaluation: only we leave out examples that have succeeded; the others run their nearest
setting. "all steps" is for training. Success is judged by the plain model, and must be the same.
"""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peers import BATCH, NAMES, STEPS, Attack, Peers, success
from setting import ADVERSARIAL, COHORTS, HERE, Row, Way, letters, look, measured, trained
from torch import Tensor

from robustgen.attacks.search import SearchResult, run_search
from robustgen.attacks.spaces import ImageSpace
from robustgen.data.split import Split
from robustgen.io.provenance import provenance
from robustgen.io.tensors import save_tensors
from robustgen.models.cohort import Cohort
from robustgen.seeding import generator
from robustgen.specs import SearchConfig, Threat

IMAGES = 1000
SAME = 0.02
"""Success rates differ by less, as the random starts do."""


def ours(cohort: Cohort, radius: float, until_success: bool) -> Attack:
    """The search of this package."""
    return lambda x, y: found(cohort, radius, until_success, x, y).codes[0]


def found(cohort: Cohort, radius: float, until_success: bool, x: Tensor, y: Tensor) -> SearchResult:
    """What it finds."""
    return run_search(
        cohort,
        ImageSpace(x[None], 0.0, 1.0),
        y[None],
        Threat("image", "linf", radius),
        SearchConfig("signed", radius / 30, STEPS),
        [generator(0, "start")],
        stop_at_success=until_success,
        backend=COHORTS,
    )


def needed(cohort: Cohort, radius: float, x: Tensor, y: Tensor) -> float:
    """Operations of the search until success, of those of all steps with all images.

    A success in iteration i took i ways back, and one more look.
    """
    model = cohort.member(0).requires_grad_(False)
    parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
    made = torch.cat([found(cohort, radius, True, *part).iterations[0] for part in parts])
    steps = torch.where(made < 0, STEPS, made).float().mean().item()
    return (steps + look(model, back=False) / look(model)) / STEPS


def compared(kind: str, cohort: Cohort, test: Split, radius: float) -> list[Row]:
    """Rows of all ways to attack the one model of a cohort."""
    model = cohort.member(0).requires_grad_(False)
    with torch.no_grad():
        right = torch.nonzero(model(test.images()).argmax(1) == test.labels)[:IMAGES, 0]
    x, y = test.take(right).images().contiguous(), test.take(right).labels
    mine = {
        "robustgen, until success": ours(cohort, radius, until_success=True),
        "robustgen, all steps": ours(cohort, radius, until_success=False),
    }
    with TemporaryDirectory() as folder:
        cohort.save(Path(folder, "cohort.safetensors"), {}, provenance(str(HERE)))
        save_tensors(Path(folder, "data.safetensors"), {"images": x, "labels": y}, {})
        peers = Peers(Path(folder), radius, HERE)
        rates = {name: peers.run(name)["success"] for name in NAMES}
        rates |= {name: success(model, x, y, way) for name, way in mine.items()}
        if max(rates.values()) - min(rates.values()) > SAME:
            sys.exit(f"{kind}: success differs: {rates}")
        asked = {name: partial(peers.run, name) for name in NAMES}
        ways = {
            name: Way(run, len(x) * STEPS, peer=True, seconds=lambda run=run: run()["seconds"])
            for name, run in asked.items()
        }
        for name, way in mine.items():
            ways[name] = Way(partial(success, model, x, y, way), len(x) * STEPS)
        rows = measured(f"attack on {kind}", ways, look(model))
        peers.close()
    share = needed(cohort, radius, x, y)
    for row in rows:
        row["success"] = rates[str(row["way"])]
        if "until success" in str(row["way"]):  # what it leaves out is not computed
            for rate in ("gflop_per_second", "share_of_product_rate"):
                row[rate] *= share
    return rows


def rows() -> list[Row]:
    """On a normally and on an adversarially trained model."""
    data = letters()
    learned = data["train"].take(slice(2000))
    normal, robust = trained(learned), trained(learned, ADVERSARIAL)
    test = data["test"]
    return [
        *compared("a normal model", normal, test, 0.3),
        *compared("a robust model", robust, test, 0.02),
    ]
