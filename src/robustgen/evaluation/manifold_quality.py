"""The quality of a learned manifold: reconstructions, samples from the prior, and random steps.

A judge decides whether a decoded image shows the class that was decoded. It is a classifier that
was trained on the images of the data set, and on no image that a VAE-GAN decoded.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustgen.attacks.spaces import LearnedSpace
from robustgen.data.decoders import ClassDecoders
from robustgen.data.split import Split
from robustgen.io.schemas import QUALITY, empty
from robustgen.models.cohort import predict_class
from robustgen.models.vaegan import IMAGES_PER_CHUNK, VaeGan
from robustgen.specs import LATENT_BOUND, Threat

_MEASURES = [f.name for f in QUALITY if f.nullable and f.name not in ("label", "class")]
MISSING_IMAGE_GREY = 0.75
"""Pixel value of a missing image on a sheet: the grey of the gaps between images."""


def measure_quality(
    models: Sequence[VaeGan],
    test: Split,
    judge: nn.Module,
    threat: Threat,
    rng: torch.Generator,
) -> dict[str, list[Any]]:
    """Return the quality of a learned manifold, for each class and over all of them.

    Args:
        models: the VAE-GAN of each class, or a single one of all classes; in eval mode.
        test: the test split.
        judge: a classifier of the data set, images to logits; in eval mode.
        threat: the ball around a code from which a random step is drawn.
        rng: a CPU generator for samples and steps.

    Returns:
        The columns of `schemas.QUALITY` except `dataset` and `space`: a row per class, and one over
        all classes, whose class is None. A model of all classes has no `sample_accuracy`, because
        its samples have no class. A class without test images has no measures. Missing values are
        None.
    """
    measures: dict[int, dict[str, Tensor]] = {}
    for label in range(len(test.classes)):
        class_split = test.select_class(label)
        if not len(class_split):
            measures[label] = {}
            continue
        measures[label] = _measure_class(models, class_split, judge, threat, rng)
        if len(models) > 1:
            is_correct = _judge_samples(models[label], len(class_split), label, judge, rng)
            measures[label]["sample"] = is_correct
    non_empty = [tensors for tensors in measures.values() if tensors]
    over_all = {name: torch.cat([tensors[name] for tensors in non_empty]) for name in non_empty[0]}
    columns = empty(QUALITY)
    for row in map(_make_row, [*measures.values(), over_all]):
        for name, value in row.items():
            columns[name].append(value)
    columns["label"], columns["class"] = [*measures, None], [*test.classes, None]
    columns["radius"] = [threat.radius] * len(columns["label"])
    return columns


@torch.no_grad()
def _measure_class(
    models: Sequence[VaeGan],
    class_split: Split,
    judge: nn.Module,
    threat: Threat,
    rng: torch.Generator,
) -> dict[str, Tensor]:
    """Measures of each image `(B,)` and code `(B, D)` of a class with at least one image."""
    label = int(class_split.labels[0])
    model = models[label] if len(models) > 1 else models[0]
    bound, decoders = class_split.ranges[0].new_tensor(LATENT_BOUND), ClassDecoders([model.decoder])
    chunks: list[dict[str, Tensor]] = []
    for start in range(0, len(class_split), IMAGES_PER_CHUNK):
        batch = class_split.select(slice(start, start + IMAGES_PER_CHUNK))
        images = batch.images()
        mean, log_variance = model.encoder(images)
        codes = mean.clamp(-LATENT_BOUND, LATENT_BOUND)
        reconstructions = model.decoder(codes)
        space = LearnedSpace(codes[None], -bound, bound, batch.labels[None], decoders)
        stepped = space.decode(space.sample(threat, [rng]))[0]
        differences = (reconstructions - images).flatten(1)
        chunks.append(
            {
                "l1": differences.norm(1, dim=1),
                "l2": differences.norm(dim=1),
                "mean": mean,
                "posterior": log_variance.exp(),
                "image": predict_class(judge(images)) == label,
                "reconstruction": predict_class(judge(reconstructions)) == label,
                "step": predict_class(judge(stepped)) == label,
            }
        )
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}


@torch.no_grad()
def _judge_samples(
    model: VaeGan, count: int, label: int, judge: nn.Module, rng: torch.Generator
) -> Tensor:
    """Whether the judge assigns each of `count` samples of a model to the class of the model."""
    codes = sample_prior(count, model, rng)
    chunks = torch.split(codes, IMAGES_PER_CHUNK)
    predictions = [predict_class(judge(model.decoder(chunk))) for chunk in chunks]
    return torch.cat(predictions) == label


def sample_prior(count: int, model: VaeGan, rng: torch.Generator) -> Tensor:
    """Return codes `(count, D)` from the standard normal prior, truncated to ±`LATENT_BOUND`."""
    codes = torch.empty(count, model.config.latent_dim)
    torch.nn.init.trunc_normal_(codes, a=-LATENT_BOUND, b=LATENT_BOUND, generator=rng)
    return codes.to(next(model.parameters()).device)


def _make_row(measures: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the row of one class, or of all, from measures of its images; None without images."""
    if not measures:
        return {"images": 0, **dict.fromkeys(_MEASURES)}
    is_correct, is_reconstruction_correct = measures["image"], measures["reconstruction"]
    codes = measures["mean"].double()
    values = {
        "l1": measures["l1"],
        "l2": measures["l2"],
        "code_mean": codes.mean(0).square().mean().sqrt(),
        "code_variance": codes.var(0, correction=0),
        "posterior_variance": measures["posterior"],
        "out_of_bounds": codes.abs() > LATENT_BOUND,
        "accuracy": is_correct,
        "reconstruction_accuracy": is_reconstruction_correct,
        "reconstruction_agreement": is_reconstruction_correct[is_correct],
        "step_agreement": measures["step"][is_reconstruction_correct],
        "sample_accuracy": measures.get("sample", is_correct[:0]),
    }
    means = {name: value.double().mean().item() for name, value in values.items()}
    row = {name: None if np.isnan(mean) else mean for name, mean in means.items()}
    return {"images": len(is_correct), **row}


@torch.no_grad()
def make_sheet(
    models: Sequence[VaeGan], test: Split, columns: int, rng: torch.Generator
) -> dict[str, Any]:
    """Return images of a learned manifold, arrays `(K, columns, C, H, W)` for K classes.

    Args:
        models: the VAE-GAN of each class, or a single one of all classes; in eval mode.
        test: the test split, of which the first images of each class are shown.
        columns: number of images of each kind.
        rng: a CPU generator for the samples.

    Returns:
        `images`, their `reconstructions`, `samples` from the prior, and `interpolations` on the
        straight line between the codes of the first two images. A class without test images has
        only `samples`; its other images are grey.
    """
    arrays: dict[str, list[Any]] = {}
    for label in range(len(test.classes)):
        model = models[label] if len(models) > 1 else models[0]
        samples = model.decoder(sample_prior(columns, model, rng))
        grey = torch.full_like(samples, MISSING_IMAGE_GREY)
        rows = dict.fromkeys(("images", "reconstructions", "interpolations"), grey)
        images = test.select_class(label).select(slice(columns)).images()
        if len(images):
            images = images[torch.arange(columns, device=images.device) % len(images)]
            codes = model.encode(images).clamp(-LATENT_BOUND, LATENT_BOUND)
            weights = torch.linspace(0, 1, columns, device=codes.device)[:, None]
            rows = {
                "images": images,
                "reconstructions": model.decoder(codes),
                "interpolations": model.decoder(torch.lerp(codes[:1], codes[1:2], weights)),
            }
        for name, row in (rows | {"samples": samples}).items():
            arrays.setdefault(name, []).append(row.cpu().numpy())
    return {name: np.stack(rows) for name, rows in arrays.items()}
