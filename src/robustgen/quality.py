"""How good a learned manifold is: what the VAE-GANs make of test images, of the prior, of steps.

"Right" is what a classifier says that was trained on the data set's own images and on nothing
that a VAE-GAN made: it gives the class that was decoded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustgen.datasets import Split
from robustgen.manifolds import BOUND, Decoders
from robustgen.manifolds.vaegan import AT_ONCE, VaeGan
from robustgen.predictions import predicted_class
from robustgen.spaces import LearnedSpace, Threat
from robustgen.tables import QUALITY, empty


def quality(
    models: Sequence[VaeGan],
    test: Split,
    judge: nn.Module,
    threat: Threat,
    rng: torch.Generator,
) -> dict[str, list[Any]]:
    """Measures of a learned manifold, for each class and over all of them.

    Args:
        models: the VAE-GAN of each class, or the only one; in eval mode.
        test: the test split.
        judge: a classifier of the data set, images to logits; in eval mode.
        threat: of what size random steps on the manifold are.
        rng: a CPU generator, of samples and steps.

    Returns:
        The columns of `tables.QUALITY` but `dataset` and `space`, a row per class and one over
        all, whose class is None. Samples of a model of all classes have no class to be right of.
    """
    held: dict[int, dict[str, Tensor]] = {}
    for label in range(len(test.classes)):
        own = test.of_class(label)
        found = _measured(models, own, judge, threat, rng)
        if len(models) > 1:
            found["sample"] = _sampled(models[label], len(own), label, judge, rng)
        held[label] = found
    every = {name: torch.cat([of[name] for of in held.values()]) for name in held[0]}
    columns = empty(QUALITY)
    for measured in [*held.values(), every]:
        for name, value in _row(measured).items():
            columns[name].append(value)
    columns["label"], columns["class"] = [*held, None], [*test.classes, None]
    columns["radius"] = [threat.radius] * len(columns["label"])
    return columns


@torch.no_grad()
def _measured(
    models: Sequence[VaeGan], own: Split, judge: nn.Module, threat: Threat, rng: torch.Generator
) -> dict[str, Tensor]:
    """What each image `(B,)` of one class, its code `(B, D)` and its posterior come to."""
    label = int(own.labels[0])
    model = models[label] if len(models) > 1 else models[0]
    bound, decoders = own.ranges[0].new_tensor(BOUND), Decoders([model.decoder])
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(own), AT_ONCE):
        some = own.take(slice(start, start + AT_ONCE))
        images = some.images()
        mean, log_variance = model.encoder(images)
        codes = mean.clamp(-BOUND, BOUND)
        made = model.decoder(codes)
        space = LearnedSpace(codes[None], -bound, bound, some.labels[None], decoders)
        stepped = space.decode(space.sample(threat, [rng]))[0]
        left = (made - images).flatten(1)
        parts.append(
            {
                "l1": left.norm(1, dim=1),
                "l2": left.norm(dim=1),
                "mean": mean,
                "posterior": log_variance.exp(),
                "right": predicted_class(judge(images)) == label,
                "reconstruction": predicted_class(judge(made)) == label,
                "step": predicted_class(judge(stepped)) == label,
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def _sampled(
    model: VaeGan, count: int, label: int, judge: nn.Module, rng: torch.Generator
) -> Tensor:
    """Whether each of `count` samples of a class's model is right."""
    codes = prior(count, model, rng)
    parts = torch.split(codes, AT_ONCE)
    predicted = [predicted_class(judge(model.decoder(part))) for part in parts]
    return torch.cat(predicted) == label


def prior(count: int, model: VaeGan, rng: torch.Generator) -> Tensor:
    """Codes `(count, D)` from the standard normal prior, as far as it lies within `BOUND`."""
    codes = torch.empty(count, model.recipe.latent)
    torch.nn.init.trunc_normal_(codes, a=-BOUND, b=BOUND, generator=rng)
    return codes.to(next(model.parameters()).device)


def _row(of: Mapping[str, Tensor]) -> dict[str, Any]:
    """The measures of one class, or of all, from those of the images."""
    right, reconstructed, mean = of["right"], of["reconstruction"], of["mean"].double()
    values = {
        "l1": of["l1"],
        "l2": of["l2"],
        "code_mean": mean.mean(0).square().mean().sqrt(),
        "code_variance": mean.var(0, correction=0),
        "posterior_variance": of["posterior"],
        "beyond_bound": mean.abs() > BOUND,
        "right": right,
        "reconstructions_right": reconstructed,
        "reconstructions_kept": reconstructed[right],
        "steps_kept": of["step"][reconstructed],
        "samples_right": of.get("sample", right[:0]),
    }
    means = {name: value.double().mean().item() for name, value in values.items()}
    shares = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    return {"images": len(right), **shares}


@torch.no_grad()
def sheet(
    models: Sequence[VaeGan], test: Split, columns: int, rng: torch.Generator
) -> dict[str, Any]:
    """Pictures of a learned manifold, for each of K classes: arrays `(K, columns, C, H, W)`.

    Args:
        models: the VAE-GAN of each class, or the only one; in eval mode.
        test: the test split, whose first images of each class are shown.
        columns: how many of each.
        rng: a CPU generator, of the samples.

    Returns:
        `images`, their `reconstructions`, `samples` from the prior, and `interpolations` on the
        straight line between the codes of the first two images.
    """
    rows: dict[str, list[Any]] = {}
    for label in range(len(test.classes)):
        model = models[label] if len(models) > 1 else models[0]
        images = test.of_class(label).take(slice(columns)).images()
        images = images[torch.arange(columns, device=images.device) % len(images)]
        codes = model.encode(images).clamp(-BOUND, BOUND)
        way = torch.linspace(0, 1, columns, device=codes.device)[:, None]
        made = {
            "images": images,
            "reconstructions": model.decoder(codes),
            "samples": model.decoder(prior(columns, model, rng)),
            "interpolations": model.decoder(torch.lerp(codes[:1], codes[1:2], way)),
        }
        for name, value in made.items():
            rows.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.stack(values) for name, values in rows.items()}
