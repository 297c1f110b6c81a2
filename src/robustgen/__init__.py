"""Adversarial robustness against generalization, measured on any image data set.

The public names below are imported when they are first used, so that `import robustgen` needs no
PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "AdversarialTraining": "specs",
    "Cohort": "models.cohort",
    "Generators": "training.classifiers",
    "Interval": "analysis.statistics",
    "SearchConfig": "specs",
    "Threat": "specs",
    "TrainConfig": "specs",
    "UserError": "errors",
    "attack": "evaluation.single_model",
    "attack_cohort": "evaluation.attacks",
    "load_split": "data.split",
    "make_space": "attacks.spaces",
    "measure_distances": "evaluation.distances",
    "open_study": "results",
    "run_search": "attacks.search",
    "train": "training.classifiers",
}
"""The module of each public name."""

__all__ = [*_MODULES, "__version__"]

if TYPE_CHECKING:
    from robustgen.analysis.statistics import Interval as Interval
    from robustgen.attacks.search import run_search as run_search
    from robustgen.attacks.spaces import make_space as make_space
    from robustgen.data.split import load_split as load_split
    from robustgen.errors import UserError as UserError
    from robustgen.evaluation.attacks import attack_cohort as attack_cohort
    from robustgen.evaluation.distances import measure_distances as measure_distances
    from robustgen.evaluation.single_model import attack as attack
    from robustgen.models.cohort import Cohort as Cohort
    from robustgen.results import open_study as open_study
    from robustgen.specs import AdversarialTraining as AdversarialTraining
    from robustgen.specs import SearchConfig as SearchConfig
    from robustgen.specs import Threat as Threat
    from robustgen.specs import TrainConfig as TrainConfig
    from robustgen.training.classifiers import Generators as Generators
    from robustgen.training.classifiers import train as train


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'robustgen' has no attribute {name!r}")
    module = import_module(f"robustgen.{_MODULES[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
