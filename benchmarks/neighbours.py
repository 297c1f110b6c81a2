"""The search for nearest training images beside scikit-learn's."""

import sys

import torch
from setting import Row, Way, letters, measured
from sklearn.neighbors import NearestNeighbors

from robustgen.evaluation.distances import _nearest_rows

EXAMPLES, NEIGHBOURS = 500, 50


def rows() -> list[Row]:
    """Fifty neighbours of 500 images among 10,000."""
    data = letters(train_draws=10)
    known, flat = data["train"].materialize(), data["test"].images()[:EXAMPLES].flatten(1)
    points, queries = known.images().flatten(1).cpu().numpy(), flat.cpu().numpy()

    def theirs() -> torch.Tensor:
        fitted = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points)
        return torch.from_numpy(fitted.kneighbors(queries, return_distance=False))

    def ours() -> torch.Tensor:
        return _nearest_rows(flat, known, NEIGHBOURS)

    same = (theirs().sort(1).values == ours().cpu().sort(1).values).float().mean()
    if same < 0.999:  # ties may fall either way
        sys.exit(f"neighbours differ: {same:.4f} are the same")
    work = len(flat) * len(points)
    return measured(
        f"{NEIGHBOURS} nearest images",
        {"scikit-learn": Way(theirs, work), "robustgen": Way(ours, work)},
        2 * points.shape[1],
    )
