import filecmp
from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, RECIPE, make_split, vaegan, with_manifolds
from torch import nn

from robustgen.acceleration.cpu.vaegan_layers import prepare
from robustgen.data.learned_manifold import ClassDecoders
from robustgen.errors import UserError
from robustgen.io.provenance import provenance
from robustgen.io.tensors import save_tensors
from robustgen.models.vaegan import VaeGan, encode, load_manifold
from robustgen.models.vaegan_networks import Decoder, Discriminator, Encoder
from robustgen.seeding import generator
from robustgen.specs import BOUND, VaeGanConfig
from robustgen.training.vaegan import train_vaegan


def of_class(label: int):
    data = make_split("train")
    return data.take(torch.nonzero(data.labels == label)[:, 0])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 56, 48), (1, 9, 15)])
def test_any_size_comes_back(shape):
    images = torch.rand(3, *shape)
    encoder, decoder = Encoder(shape, 5, (4, 6, 8)), Decoder(shape, 5, (4, 6, 8))
    mean, log_variance = encoder(images)
    assert mean.shape == log_variance.shape == (3, 5)
    again = decoder(mean)
    assert again.shape == images.shape
    assert again.min() >= 0
    assert again.max() <= 1
    assert Discriminator(shape, (4, 6, 8))(images).shape == (3,)


def test_the_papers_layers():
    """Kernels, strides and widths of the supplement."""
    model = VaeGan((1, 28, 28), VaeGanConfig())
    weights = {
        part: [tuple(p.shape) for p in module.parameters() if p.dim() == 4]
        for part, module in model.named_children()
    }
    assert weights == {
        "encoder": [(64, 1, 4, 4), (128, 64, 4, 4), (256, 128, 4, 4)],
        "decoder": [(256, 128, 6, 6), (128, 64, 6, 6), (64, 1, 6, 6)],
        "discriminator": [(64, 1, 6, 6), (128, 64, 6, 6), (256, 128, 6, 6)],
    }


def test_images_too_small_are_refused():
    with pytest.raises(UserError, match="8x8 at least"):
        Encoder((1, 7, 28), 4, (4, 6, 8))


def test_training_brings_reconstructions_nearer_and_repeats(tmp_path):
    data, paths = of_class(0), [tmp_path / name for name in ("one", "two")]
    for path in paths:
        model = vaegan("one")
        curves = train_vaegan(model, data, generator(0, "training"))
        model.save(path, {"label": 0}, provenance("cpu"))
    assert filecmp.cmp(*paths, shallow=False)
    assert [len(column) for column in curves.values()] == [3] * 6
    assert curves["l1"][-1] < 0.7 * curves["l1"][0]
    assert not model.training
    loaded = VaeGan.load(paths[0])
    assert loaded.config == RECIPE
    images = data.take(slice(20)).images()
    assert torch.equal(loaded.encode(images), model.encode(images))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_losses_are_those_of_the_paper():
    """One epoch of one batch, of which each term is computed by hand from the same draws."""
    recipe = VaeGanConfig(latent=4, channels=(8, 16), epochs=1, batch_size=30, beta=2.0, gamma=0.5)
    data = of_class(1).take(slice(30))
    model, twin = vaegan("one", recipe), vaegan("one", recipe)
    curves = train_vaegan(model, data, generator(0, "training"))
    rng = generator(0, "training")
    images = data.take(torch.randperm(30, generator=rng)).images()
    twin.train()
    mean, log_variance = twin.encoder(images)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    noise = torch.randn(mean.shape, generator=rng)
    again = twin.decoder(mean + posterior.scale * noise)
    l1 = nn.functional.l1_loss(again, images, reduction="sum") / 30
    real = nn.functional.binary_cross_entropy_with_logits(twin.discriminator(again), torch.ones(30))
    found = [curves[name][0] for name in ("kl_divergence", "l1", "generator_loss")]
    assert found == pytest.approx([term.item() for term in (divergence, l1, real)], rel=1e-4)


def _plainly_updated(model: VaeGan, images: torch.Tensor, rng: torch.Generator) -> None:
    """One update as the paper has it, with torch's own layers and nothing left out."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d
        if isinstance(layer, nn.ConvTranspose2d):
            layer.__class__ = nn.ConvTranspose2d
    recipe, answer = model.config, nn.functional.binary_cross_entropy_with_logits
    vae = [*model.encoder.parameters(), *model.decoder.parameters()]
    how = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    of_vae = torch.optim.Adam(vae, **how)
    of_discriminator = torch.optim.Adam(model.discriminator.parameters(), **how)
    mean, log_variance = model.encoder(images)
    noise = torch.randn(mean.shape, generator=rng).double()
    made = model.decoder(mean + (log_variance / 2).exp() * noise)
    loss = (mean**2 + log_variance.exp() - log_variance - 1).sum() / 2 / len(images)
    loss = loss + recipe.beta * (made - images).abs().sum() / len(images)
    judged, real = model.discriminator(made), torch.ones(len(images)).double()
    (loss + recipe.gamma * answer(judged, real)).backward()
    of_vae.step()
    if recipe.gamma:
        of_discriminator.zero_grad()
        told = answer(model.discriminator(images), real)
        (told + answer(model.discriminator(made.detach()), 0 * real)).backward()
        of_discriminator.step()


@pytest.mark.parametrize("gamma", [0.7, 0.0])
def test_an_update_equals_one_of_plain_layers(gamma):
    """Of all parameters; the running statistics too, but for those of a discriminator unused."""
    recipe = VaeGanConfig(latent=4, channels=(8, 24, 32), epochs=1, batch_size=30, gamma=gamma)
    data = of_class(1).take(slice(30))
    data = replace(data, decoded=data.images().double())
    model, twin = (vaegan("one", recipe).double() for _ in range(2))
    train_vaegan(model, data, generator(0, "training"))
    rng = generator(0, "training")
    images = data.take(torch.randperm(30, generator=rng)).images()
    _plainly_updated(twin.train(), images, rng)
    before = vaegan("one", recipe).double().state_dict()
    expected = twin.state_dict()
    for name, found in model.state_dict().items():
        unused = name.startswith("discriminator") and not gamma
        wanted = (before if unused else expected)[name]
        torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0, msg=name)
        assert unused or "num_batches" in name or not torch.equal(found, before[name]), name


def test_without_gamma_there_is_no_discriminator():
    model = vaegan("one", replace(RECIPE, gamma=0.0))
    model.discriminator.forward = None
    curves = train_vaegan(model, of_class(0), generator(0, "training"))
    assert curves["generator_loss"] == curves["discriminator_loss"] == [None] * 3
    assert curves["l1"][-1] < 0.7 * curves["l1"][0]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 13, 18)])
def test_a_folded_decoder_is_the_same_function(shape):
    model = vaegan("one", VaeGanConfig(latent=4, channels=(8, 24, 32)), shape).double()
    for norm in model.decoder.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for of, value in enumerate((norm.running_mean, norm.running_var, norm.weight)):
                torch.nn.init.uniform_(value, 0.5, 2, generator=generator(0, "norm", of))
    with pytest.raises(ValueError, match="train mode"):
        model.decoder.fold_batch_norm()
    decoder = prepare(model).eval().decoder
    folded = decoder.fold_batch_norm()
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    codes = torch.randn(9, 4, generator=generator(0, "codes")).double().requires_grad_()
    one, other = decoder(codes), folded(codes)
    torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-10)
    gradients = [torch.autograd.grad(made.square().sum(), codes)[0] for made in (one, other)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


def test_all_layers_are_laid_out_with_the_channels_last():
    """Of one channel or three: else each layer lays out its images anew."""
    for channels in (1, 3):
        model = prepare(vaegan("one", RECIPE, (channels, 28, 28))).eval()
        images = torch.rand(2, channels, 28, 28)
        for part in (model.encoder, model.discriminator):
            made = part.features[:-1](images.clone(memory_format=torch.channels_last))
            assert not made.is_contiguous()
            assert made.is_contiguous(memory_format=torch.channels_last)


def test_divergence_is_told():
    with pytest.raises(UserError, match="the VAE-GAN diverged: a loss is not finite in epoch 1"):
        train_vaegan(
            vaegan("one", VaeGanConfig(**{**vars(RECIPE), "learning_rate": 1e30})),
            of_class(0),
            generator(0, "training"),
        )


@pytest.mark.parametrize("classes", [1, CLASSES])
@pytest.mark.parametrize("folded", [True, False])
def test_a_mixed_batch_is_decoded_by_each_images_own_class(classes, folded):
    """Equal to decoding one by one, with its gradient; folded ones are decoded layer by layer."""
    models = [vaegan(str(k)).eval().requires_grad_(False) for k in range(classes)]
    decoders = ClassDecoders([m.decoder.fold_batch_norm() if folded else m.decoder for m in models])
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(3, 20, 4, generator=rng).requires_grad_()
    labels = torch.randint(CLASSES, (3, 20), generator=rng)
    labels[0] = 2  # not every class is in every row
    images = decoders(codes, labels)
    single = torch.stack(
        [
            models[int(label) % classes].decoder(code[None])[0]
            for code, label in zip(codes.flatten(0, 1), labels.flatten(), strict=True)
        ]
    ).view_as(images)
    torch.testing.assert_close(images, single, atol=1e-5, rtol=1e-5)
    (one,) = torch.autograd.grad(images.square().sum(), codes)
    (other,) = torch.autograd.grad(single.square().sum(), codes)
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def kept_for_the_gradient(classes, folded):
    """Numbers that decoding 40 codes keeps, weights aside."""
    models = [vaegan(str(k)).eval().requires_grad_(False) for k in range(classes)]
    decoders = [m.decoder.fold_batch_norm() if folded else m.decoder for m in models]
    weights = {w.data_ptr() for of in decoders for w in of.state_dict().values()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr(), tensor.shape] = tensor.numel()
        return tensor

    codes = torch.zeros(40, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        ClassDecoders(decoders)(codes, torch.arange(40) % classes)
    return sum(kept.values())


@pytest.mark.parametrize("folded", [True, False])
def test_memory_does_not_grow_with_the_classes(folded):
    few, many = (kept_for_the_gradient(classes, folded) for classes in (2, 20))
    assert many == pytest.approx(few, rel=0.1)


def test_decoders_in_train_mode_are_refused():
    with pytest.raises(ValueError, match="train mode"):
        ClassDecoders([vaegan("one").decoder])


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_images_are_encoded_by_their_own_class_within_bounds(classes):
    data = make_split("test")
    models = [vaegan(str(k)).eval().requires_grad_(False) for k in range(classes)]
    for model in models:
        model.encoder.ends.weight.mul_(20)  # to leave the bounds
    codes = encode(models, data)
    for row in range(0, len(data), 17):
        model = models[int(data.labels[row]) % classes]
        code = model.encode(data.take(slice(row, row + 1)).images())[0]
        torch.testing.assert_close(codes[row], code.clamp(-BOUND, BOUND), atol=1e-4, rtol=1e-4)
    assert codes.abs().max() == BOUND


def test_a_selection_keeps_its_codes():
    data = with_manifolds(make_split("test"))
    rows = torch.tensor([[3, 1], [7, 7]])
    chosen = data.take(rows)
    for space, of in data.learned.items():
        assert torch.equal(chosen.learned[space].codes, of.codes[rows])


def test_saved_codes_and_decoders_are_found_again(tmp_path):
    data = make_split("test")
    models = [vaegan(name) for name in "LTOP"]
    files = [tmp_path / f"{k}.safetensors" for k in range(5)]
    for model, file in zip(models, files[1:], strict=True):
        model.eval().requires_grad_(False).save(file, {}, provenance("cpu"))
    codes = encode(models, data)
    save_tensors(files[0], {"test": codes}, {"space": "learned_manifold"})
    found = load_manifold(files, data.take(slice(12)), "test").learned["learned_manifold"]
    assert torch.equal(found.codes, codes[:12])
    decoders = ClassDecoders([model.decoder.fold_batch_norm() for model in models])
    labels = data.labels[:12]
    assert torch.equal(found.decoders(found.codes, labels), decoders(codes[:12], labels))


def test_a_decoder_of_inference_mode():
    codes = torch.randn(3, RECIPE.latent, generator=generator(0, "codes"))
    expected = vaegan("A").eval().decoder.requires_grad_(False)(codes)
    with torch.inference_mode():
        decoder = vaegan("A").eval().decoder.requires_grad_(False)
        assert decoder(codes).equal(expected)
        for weights in decoder.parameters():
            weights.zero_()
        assert decoder(codes).eq(0.5).all()
