"""The search for the nearest training images compared with scikit-learn's."""

import sys

import torch
from setting import Row, Variant, load_letters, measure
from sklearn.neighbors import NearestNeighbors

from robustgen.evaluation.distances import _find_neighbours

EXAMPLES, NEIGHBOURS = 500, 50
MIN_AGREEMENT = 0.999
"""Share of neighbours that must be equal. Neighbours at equal distances may differ."""


def rows() -> list[Row]:
    """Measure the search for 50 neighbours of 500 images among 10,000.

    Exits if the neighbours differ.
    """
    data = load_letters(train_images_per_glyph=10)
    training_data = data["train"].materialize()
    examples = data["test"].images()[:EXAMPLES].flatten(1)
    points, queries = training_data.images().flatten(1).cpu().numpy(), examples.cpu().numpy()

    def search_by_sklearn() -> torch.Tensor:
        neighbours = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(points)
        return torch.from_numpy(neighbours.kneighbors(queries, return_distance=False))

    def search_by_robustgen() -> torch.Tensor:
        return _find_neighbours(examples, training_data, NEIGHBOURS)

    is_equal = search_by_sklearn().sort(1).values == search_by_robustgen().cpu().sort(1).values
    agreement = is_equal.float().mean()
    if agreement < MIN_AGREEMENT:
        sys.exit(f"neighbours differ: {agreement:.4f} of them are equal")
    work = len(examples) * len(points)
    variants = {
        "scikit-learn": Variant(search_by_sklearn, work),
        "robustgen": Variant(search_by_robustgen, work),
    }
    return measure(f"{NEIGHBOURS} nearest images", variants, 2 * points.shape[1])
