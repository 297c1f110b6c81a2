"""How good a learned manifold is: what the VAE-GANs make of test images, of the prior, of steps.

"Right" is what a classifier says that was trained on the data set's own images and on nothing
that a VAE-GAN made: it gives the class that was decoded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustgen.attacks.spaces import LearnedSpace
from robustgen.data.learned_manifold import Decoders
from robustgen.data.split import Split
from robustgen.io.schemas import QUALITY, empty
from robustgen.models.predictions import predict_class
from robustgen.models.vaegan import IMAGES_PER_CHUNK, VaeGan
from robustgen.specs import BOUND, Threat

_MEASURES = [f.name for f in QUALITY if f.nullable and f.name not in ("label", "class")]
NO_IMAGE = 0.75
"""Value of pixels where a sheet has no picture: the grey between the pictures."""


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
        The columns of `schemas.QUALITY` but `dataset` and `space`, a row per class and one over
        all, whose class is None. Samples of a model of all classes have no class to be right of.
        A class without test images has no measures: they are None.
    """
    measures: dict[int, dict[str, Tensor]] = {}
    for label in range(len(test.classes)):
        class_split = test.of_class(label)
        if not len(class_split):
            measures[label] = {}
            continue
        measures[label] = _measure(models, class_split, judge, threat, rng)
        if len(models) > 1:
            samples = _sampled(models[label], len(class_split), label, judge, rng)
            measures[label]["sample"] = samples
    parts = [part for part in measures.values() if part]
    over_all = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    columns = empty(QUALITY)
    for row in map(_row, [*measures.values(), over_all]):
        for name, value in row.items():
            columns[name].append(value)
    columns["label"], columns["class"] = [*measures, None], [*test.classes, None]
    columns["radius"] = [threat.radius] * len(columns["label"])
    return columns


@torch.no_grad()
def _measure(
    models: Sequence[VaeGan],
    class_split: Split,
    judge: nn.Module,
    threat: Threat,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Measures of each image `(B,)` and code `(B, D)` of one class, which has an image or more."""
    label = int(class_split.labels[0])
    model = models[label] if len(models) > 1 else models[0]
    bound, decoders = class_split.ranges[0].new_tensor(BOUND), Decoders([model.decoder])
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(class_split), IMAGES_PER_CHUNK):
        batch = class_split.take(slice(start, start + IMAGES_PER_CHUNK))
        images = batch.images()
        mean, log_variance = model.encoder(images)
        codes = mean.clamp(-BOUND, BOUND)
        made = model.decoder(codes)
        space = LearnedSpace(codes[None], -bound, bound, batch.labels[None], decoders)
        stepped = space.decode(space.sample(threat, [rng]))[0]
        left = (made - images).flatten(1)
        parts.append(
            {
                "l1": left.norm(1, dim=1),
                "l2": left.norm(dim=1),
                "mean": mean,
                "posterior": log_variance.exp(),
                "right": predict_class(judge(images)) == label,
                "reconstruction": predict_class(judge(made)) == label,
                "step": predict_class(judge(stepped)) == label,
            }
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@torch.no_grad()
def _sampled(
    model: VaeGan, count: int, label: int, judge: nn.Module, rng: torch.Generator
) -> Tensor:
    """Whether each of `count` samples of a class's model is right."""
    codes = prior(count, model, rng)
    parts = torch.split(codes, IMAGES_PER_CHUNK)
    predicted = [predict_class(judge(model.decoder(part))) for part in parts]
    return torch.cat(predicted) == label


def prior(count: int, model: VaeGan, rng: torch.Generator) -> Tensor:
    """Codes `(count, D)` from the standard normal prior, as far as it lies within `BOUND`."""
    codes = torch.empty(count, model.config.latent)
    torch.nn.init.trunc_normal_(codes, a=-BOUND, b=BOUND, generator=rng)
    return codes.to(next(model.parameters()).device)


def _row(measures: Mapping[str, Tensor]) -> dict[str, Any]:
    """The measures of one class, or of all, from those of the images; None without images."""
    if not measures:
        return {"images": 0, **dict.fromkeys(_MEASURES)}
    right, reconstructed = measures["right"], measures["reconstruction"]
    mean = measures["mean"].double()
    values = {
        "l1": measures["l1"],
        "l2": measures["l2"],
        "code_mean": mean.mean(0).square().mean().sqrt(),
        "code_variance": mean.var(0, correction=0),
        "posterior_variance": measures["posterior"],
        "out_of_bounds": mean.abs() > BOUND,
        "accuracy": right,
        "reconstruction_accuracy": reconstructed,
        "reconstruction_agreement": reconstructed[right],
        "step_agreement": measures["step"][reconstructed],
        "sample_accuracy": measures.get("sample", right[:0]),
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
        straight line between the codes of the first two images. A class without test images has
        only `samples`; the other pictures are grey.
    """
    rows: dict[str, list[Any]] = {}
    for label in range(len(test.classes)):
        model = models[label] if len(models) > 1 else models[0]
        samples = model.decoder(prior(columns, model, rng))
        no_pictures = torch.full_like(samples, NO_IMAGE)
        pictures = dict.fromkeys(("images", "reconstructions", "interpolations"), no_pictures)
        images = test.of_class(label).take(slice(columns)).images()
        if len(images):
            images = images[torch.arange(columns, device=images.device) % len(images)]
            codes = model.encode(images).clamp(-BOUND, BOUND)
            weights = torch.linspace(0, 1, columns, device=codes.device)[:, None]
            pictures = {
                "images": images,
                "reconstructions": model.decoder(codes),
                "interpolations": model.decoder(torch.lerp(codes[:1], codes[1:2], weights)),
            }
        for name, value in (pictures | {"samples": samples}).items():
            rows.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.stack(values) for name, values in rows.items()}
