"""Access to the results of a study: tables, classifiers, data sets and adversarial examples."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import nn

from robustgen.data.split import SPLITS, Split, load_split
from robustgen.errors import UserError
from robustgen.io.parquet import read_table
from robustgen.io.schemas import (
    ALL_DISTANCES,
    ALL_TRANSFERS,
    ATTACKS,
    CLAIMS,
    CURVES,
    ERRORS,
    OVER_SEEDS,
    QUALITY,
    RADIUS_CURVES,
    ROBUSTNESS_CHECKS,
    SMALLEST_PERTURBATIONS,
    SUCCESS_RATES,
)
from robustgen.io.tensors import load_tensors
from robustgen.models.cohort import Cohort
from robustgen.models.vaegan import load_manifold
from robustgen.specs import LEARNED_MANIFOLDS, split_into_cohorts, vaegan_names

_SCHEMAS = {
    "claims": CLAIMS,
    "distances": ALL_DISTANCES,
    "errors": ERRORS,
    "manifolds": QUALITY,
    "over_seeds": OVER_SEEDS,
    "radius_curves": RADIUS_CURVES,
    "robustness_checks": ROBUSTNESS_CHECKS,
    "smallest_perturbations": SMALLEST_PERTURBATIONS,
    "success_rates": SUCCESS_RATES,
    "transfers": ALL_TRANSFERS,
}


class Examples(NamedTuple):
    """The adversarial examples of one attack on one classifier.

    Attributes:
        images: `(N, C, H, W)` adversarial images in [0, 1], as a NumPy array; `torch.from_numpy`
            makes a tensor of it for a model.
        codes: `(N, *D)` codes of the images, in the space of the threat, as a NumPy array.
        table: a row per image, columns of `schemas.ATTACKS`.
    """

    images: npt.NDArray[np.float32]
    codes: npt.NDArray[np.float32]
    table: pd.DataFrame


class Tables:
    """The tables of a study as attributes: data frames, which are read on first access."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: dict[str, pd.DataFrame] = {}

    def __dir__(self) -> Iterable[str]:
        return sorted(_SCHEMAS)

    def __getattr__(self, name: str) -> pd.DataFrame:
        if name.startswith("_") or name not in _SCHEMAS:
            raise AttributeError(f"a study has no table {name}; it has {', '.join(_SCHEMAS)}")
        if name not in self._frames:
            path = self._folder / f"{name}.parquet"
            self._frames[name] = read_table(path, _SCHEMAS[name]).to_pandas()
        return self._frames[name]


class StudyResults:
    """The results of a study, in a folder such as `results/demo`.

    Attributes:
        folder: the folder.
        config: the config of the study, with all defaults.
        tables: tables over the whole study, as attributes: `errors`, `success_rates`,
            `smallest_perturbations`, `radius_curves`, `transfers`, `robustness_checks`,
            `over_seeds`, `distances`, `manifolds` and `claims`.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder, self.config = folder, config
        self.tables = Tables(folder / "tables")

    def __repr__(self) -> str:
        return f"StudyResults({str(self.folder)!r})"

    def split(self, dataset: str, split: str = "test", *, manifold: str | None = None) -> Split:
        """Return the training or test images of a data set, on the CPU.

        Args:
            dataset: name of the data set.
            split: "train" or "test".
            manifold: "learned_manifold" or "data_manifold" adds the codes and the decoders of this
                learned manifold, which attacks and distances on it need.

        Raises:
            UserError: the study has no such data set or manifold, or a file is missing or damaged.

        Examples:
            >>> import robustgen
            >>> study = robustgen.open_study("results/smoke")
            >>> test = study.split("fonts", manifold="learned_manifold")
            >>> test.images().shape[1:], list(test.learned)
            (torch.Size([1, 28, 28]), ['learned_manifold'])
        """
        self._require("dataset", dataset, self.config["datasets"])
        self._require("split", split, SPLITS)
        folder = self.folder / dataset / "dataset"
        data = load_split(folder / "images.safetensors", folder / "examples.parquet", split)
        return data if manifold is None else self._add_manifold(data, dataset, split, manifold)

    def _add_manifold(self, data: Split, dataset: str, split: str, manifold: str) -> Split:
        """Return all images of a split with the codes and decoders of a learned manifold."""
        has_manifolds = dataset in self.config["manifolds"]
        self._require("manifold", manifold, LEARNED_MANIFOLDS if has_manifolds else ())
        folder = self.folder / dataset / "manifolds"
        names = manifold, *vaegan_names(manifold, len(data.classes))
        files = [str(folder / f"{name}.safetensors") for name in names]
        return load_manifold(files, data, split)

    def cohort(self, dataset: str, method: str, *, n: int, seed: int = 0) -> Cohort:
        """Return the cohort of the classifier with this seed, on the CPU and in eval mode.

        Args:
            dataset: name of the data set.
            method: name of the training method.
            n: number of training images.
            seed: seed of one of the models of the cohort.

        Raises:
            UserError: the study has no such classifier, or its file is missing or damaged.

        Examples:
            >>> import robustgen
            >>> robustgen.open_study("results/smoke").cohort("fonts", "normal", n=60).seeds
            [0, 1]
        """
        stem = self._stem(dataset, method, n, seed)
        path = self.folder / dataset / "classifiers" / method / f"n{n}" / f"{stem}.safetensors"
        return Cohort.load(path)

    def classifier(self, dataset: str, method: str, *, n: int, seed: int = 0) -> nn.Module:
        """Return a trained classifier: images `(B, C, H, W)` to logits `(B, K)`, in eval mode.

        Args:
            dataset: name of the data set.
            method: name of the training method.
            n: number of training images.
            seed: seed of the model.

        Raises:
            UserError: the study has no such classifier, or its file is missing or damaged.

        Examples:
            >>> import robustgen
            >>> study = robustgen.open_study("results/smoke")
            >>> model = study.classifier("fonts", "normal", n=60, seed=1)
            >>> model(study.split("fonts").images()).shape[1]
            3
        """
        cohort = self.cohort(dataset, method, n=n, seed=seed)
        return cohort.member(cohort.seeds.index(seed))

    def curves(self, dataset: str, method: str, *, n: int, seed: int = 0) -> pd.DataFrame:
        """Return the learning curves of one classifier, columns of `schemas.CURVES`.

        The arguments are those of `classifier`.

        Examples:
            >>> import robustgen
            >>> curves = robustgen.open_study("results/smoke").curves("fonts", "normal", n=60)
            >>> curves["epoch"].tolist()[:2]
            [1, 2]
        """
        stem = self._stem(dataset, method, n, seed)
        path = self.folder / dataset / "classifiers" / method / f"n{n}" / f"{stem}.curves.parquet"
        return _select_seed(read_table(path, CURVES).to_pandas(), seed)

    def examples(
        self, dataset: str, attack: str, method: str, *, n: int, seed: int = 0
    ) -> Examples:
        """Return the adversarial examples of an attack on one classifier.

        Args:
            dataset: name of the data set.
            attack: name of the attack.
            method: name of the training method.
            n: number of training images.
            seed: seed of the model.

        Raises:
            UserError: the study has no such attack, or a file is missing or damaged.

        Examples:
            >>> import robustgen
            >>> study = robustgen.open_study("results/smoke")
            >>> examples = study.examples("fonts", "regular", "normal", n=60)
            >>> len(examples.images) == len(examples.table)
            True
            >>> bool(examples.table["success"].any())
            True
        """
        self._require("attack", attack, self.config["attacks"])
        stem = self._stem(dataset, method, n, seed)
        folder = self.folder / dataset / "attacks" / attack / method / f"n{n}"
        table = _select_seed(read_table(folder / f"{stem}.parquet", ATTACKS).to_pandas(), seed)
        tensors, header = load_tensors(folder / f"{stem}.safetensors")
        member = header["seeds"].index(seed)
        images, codes = (tensors[name][member].numpy() for name in ("images", "codes"))
        return Examples(images, codes, table)

    def _stem(self, dataset: str, method: str, n: int, seed: int) -> str:
        """Return the file name, without suffix, of the cohort with this seed."""
        self._require("dataset", dataset, self.config["datasets"])
        self._require("method", method, self.config["methods"])
        self._require("n", n, self.config["sizes"])
        self._require("seed", seed, range(self.config["seeds"]))
        cohorts = split_into_cohorts(self.config["seeds"], self.config["cohort_size"])
        first, last = next((first, last) for first, last in cohorts if first <= seed <= last)
        return f"seeds{first}-{last}"

    def _require(self, argument: str, value: object, allowed: Iterable[Any]) -> None:
        allowed = list(allowed)
        if value not in allowed:
            names = ", ".join(map(str, allowed)) or "none"
            raise UserError(f"{self.folder} has no {argument} {value!r}; it has {names}")


def _select_seed(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the rows of one model, with an index from 0."""
    selected: pd.DataFrame = rows[rows["seed"] == seed].reset_index(drop=True)
    return selected


def open_study(folder: str | Path) -> StudyResults:
    """Open the results of a study.

    Args:
        folder: the folder of the study, such as `results/demo`.

    Raises:
        UserError: the folder does not contain the results of a study.

    Examples:
        >>> import robustgen
        >>> study = robustgen.open_study("results/smoke")
        >>> bool(study.tables.errors["test_error"].between(0, 1).all())
        True
        >>> model = study.classifier("fonts", "normal", n=60, seed=1)
        >>> model(study.split("fonts").images()).shape[1]
        3
        >>> study.examples("fonts", "regular", "normal", n=60, seed=1).images.shape[1:]
        (1, 28, 28)
    """
    if not isinstance(folder, str | Path):
        raise UserError(f"folder must be a path, not {type(folder).__name__}")
    path = Path(folder)
    record = path / "study.json"
    if not record.is_file():
        names = ", ".join(sorted(file.parent.name for file in path.glob("*/study.json")))
        advice = f"; it contains the results of {names}" if names else ""
        raise UserError(f"{path} is not the folder of a study: it has no study.json{advice}")
    try:
        config = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{record} cannot be read: {error}") from error
    if not isinstance(config, dict) or not {"datasets", "seeds", "cohort_size"} <= set(config):
        raise UserError(f"{record} is not the record of a study")
    return StudyResults(path, config)
