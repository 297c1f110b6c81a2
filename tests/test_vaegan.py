"""VAE-GANs: networks, training, and learned manifolds."""

import filecmp
from dataclasses import replace

import pytest
import torch
from conftest import CLASSES, RECIPE, make_split, vaegan, with_manifolds
from torch import nn

from robustgen.acceleration.cpu.vaegan_layers import prepare
from robustgen.acceleration.fold_batch_norm import fold_decoder
from robustgen.data.decoders import ClassDecoders
from robustgen.errors import UserError
from robustgen.io.tensors import save_tensors
from robustgen.jobs.runtime import provenance
from robustgen.models.vaegan import Decoder, Discriminator, Encoder, VaeGan, encode, load_manifold
from robustgen.sampling import make_generator
from robustgen.specs import LATENT_BOUND, VaeGanConfig
from robustgen.training.vaegan import train_vaegan


def select_class(label: int):
    """Training images of one class."""
    data = make_split("train")
    return data.select(torch.nonzero(data.labels == label)[:, 0])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 56, 48), (1, 9, 15)])
def test_images_of_any_size_are_encoded_and_decoded(shape):
    images = torch.rand(3, *shape)
    encoder, decoder = Encoder(shape, 5, (4, 6, 8)), Decoder(shape, 5, (4, 6, 8))
    mean, log_variance = encoder(images)
    assert mean.shape == log_variance.shape == (3, 5)
    reconstructions = decoder(mean)
    assert reconstructions.shape == images.shape
    assert reconstructions.min() >= 0
    assert reconstructions.max() <= 1
    assert Discriminator(shape, (4, 6, 8))(images).shape == (3,)


def test_the_networks_have_the_papers_layers():
    """Kernel sizes and channels of the supplement."""
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
    with pytest.raises(UserError, match="at least 8x8 pixels"):
        Encoder((1, 7, 28), 4, (4, 6, 8))


def test_training_improves_reconstructions_and_is_repeatable(tmp_path):
    data, paths = select_class(0), [tmp_path / name for name in ("one", "two")]
    for path in paths:
        model = vaegan("one")
        curves = train_vaegan(model, data, make_generator(0, "training"))
        model.save(path, {"label": 0}, provenance("cpu"))
    assert filecmp.cmp(*paths, shallow=False)
    assert [len(column) for column in curves.values()] == [3] * 6
    assert curves["l1"][-1] < 0.7 * curves["l1"][0]
    assert not model.training
    loaded = VaeGan.load(paths[0])
    assert loaded.config == RECIPE
    images = data.select(slice(20)).images()
    assert torch.equal(loaded.encode(images), model.encode(images))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_losses_equal_those_of_the_paper():
    """Each term of the first batch is computed separately from the same random numbers."""
    config = VaeGanConfig(
        latent_dim=4, channels=(8, 16), epochs=1, batch_size=30, beta=2.0, gamma=0.5
    )
    data = select_class(1).select(slice(30))
    model, expected_model = vaegan("one", config), vaegan("one", config)
    curves = train_vaegan(model, data, make_generator(0, "training"))
    rng = make_generator(0, "training")
    images = data.select(torch.randperm(30, generator=rng)).images()
    expected_model.train()
    mean, log_variance = expected_model.encoder(images)
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(4), torch.ones(4))
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    noise = torch.randn(mean.shape, generator=rng)
    reconstructions = expected_model.decoder(mean + posterior.scale * noise)
    l1 = nn.functional.l1_loss(reconstructions, images, reduction="sum") / 30
    adversarial_loss = nn.functional.binary_cross_entropy_with_logits(
        expected_model.discriminator(reconstructions), torch.ones(30)
    )
    losses = [curves[name][0] for name in ("kl_divergence", "l1", "generator_loss")]
    expected_losses = [term.item() for term in (divergence, l1, adversarial_loss)]
    assert losses == pytest.approx(expected_losses, rel=1e-4)


def update_plainly(model: VaeGan, images: torch.Tensor, rng: torch.Generator) -> None:
    """Update the model once as in the paper, with PyTorch's own layers."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.__class__ = nn.Conv2d
        if isinstance(layer, nn.ConvTranspose2d):
            layer.__class__ = nn.ConvTranspose2d
    config, cross_entropy = model.config, nn.functional.binary_cross_entropy_with_logits
    vae_params = [*model.encoder.parameters(), *model.decoder.parameters()]
    options = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    vae_optimizer = torch.optim.Adam(vae_params, **options)
    discriminator_optimizer = torch.optim.Adam(model.discriminator.parameters(), **options)
    mean, log_variance = model.encoder(images)
    noise = torch.randn(mean.shape, generator=rng).double()
    reconstructions = model.decoder(mean + (log_variance / 2).exp() * noise)
    kl = (mean**2 + log_variance.exp() - log_variance - 1).sum() / 2 / len(images)
    l1 = (reconstructions - images).abs().sum() / len(images)
    is_real = torch.ones(len(images)).double()
    adversarial_loss = cross_entropy(model.discriminator(reconstructions), is_real)
    (kl + config.beta * l1 + config.gamma * adversarial_loss).backward()
    vae_optimizer.step()
    if config.gamma:
        discriminator_optimizer.zero_grad()
        real_loss = cross_entropy(model.discriminator(images), is_real)
        fake_loss = cross_entropy(model.discriminator(reconstructions.detach()), 0 * is_real)
        (real_loss + fake_loss).backward()
        discriminator_optimizer.step()


@pytest.mark.parametrize("gamma", [0.7, 0.0])
def test_an_update_equals_that_of_plain_layers(gamma):
    """All parameters and running statistics, except those of a discriminator that is not used."""
    config = VaeGanConfig(latent_dim=4, channels=(8, 24, 32), epochs=1, batch_size=30, gamma=gamma)
    data = select_class(1).select(slice(30))
    data = replace(data, decoded=data.images().double())
    model, expected_model = (vaegan("one", config).double() for _ in range(2))
    train_vaegan(model, data, make_generator(0, "training"))
    rng = make_generator(0, "training")
    images = data.select(torch.randperm(30, generator=rng)).images()
    update_plainly(expected_model.train(), images, rng)
    initial_state = vaegan("one", config).double().state_dict()
    updated_state = expected_model.state_dict()
    for name, tensor in model.state_dict().items():
        is_unused = name.startswith("discriminator") and not gamma
        expected = (initial_state if is_unused else updated_state)[name]
        torch.testing.assert_close(tensor, expected, atol=1e-9, rtol=0, msg=name)
        is_updated = not torch.equal(tensor, initial_state[name])
        assert is_unused or "num_batches" in name or is_updated, name


def test_the_discriminator_is_not_used_without_gamma():
    model = vaegan("one", replace(RECIPE, gamma=0.0))
    model.discriminator.forward = None
    curves = train_vaegan(model, select_class(0), make_generator(0, "training"))
    assert curves["generator_loss"] == curves["discriminator_loss"] == [None] * 3
    assert curves["l1"][-1] < 0.7 * curves["l1"][0]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 13, 18)])
def test_a_folded_decoder_computes_the_same_images_and_gradients(shape):
    model = vaegan("one", VaeGanConfig(latent_dim=4, channels=(8, 24, 32)), shape).double()
    for norm in model.decoder.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for i, values in enumerate((norm.running_mean, norm.running_var, norm.weight)):
                torch.nn.init.uniform_(values, 0.5, 2, generator=make_generator(0, "norm", i))
    with pytest.raises(ValueError, match="train mode"):
        fold_decoder(model.decoder)
    decoder = prepare(model).eval().decoder
    folded = fold_decoder(decoder)
    assert not any(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in folded.modules())
    assert not any(p.requires_grad for p in folded.parameters())
    codes = torch.randn(9, 4, generator=make_generator(0, "codes")).double().requires_grad_()
    images = [network(codes) for network in (decoder, folded)]
    torch.testing.assert_close(*images, atol=1e-10, rtol=1e-10)
    gradients = [torch.autograd.grad(x.square().sum(), codes)[0] for x in images]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=1e-10)


def test_activations_of_prepared_networks_are_channels_last():
    """For images of one channel or three; otherwise each layer would convert its input."""
    for channels in (1, 3):
        model = prepare(vaegan("one", RECIPE, (channels, 28, 28))).eval()
        images = torch.rand(2, channels, 28, 28)
        for part in (model.encoder, model.discriminator):
            output = part.features[:-1](images.clone(memory_format=torch.channels_last))
            assert not output.is_contiguous()
            assert output.is_contiguous(memory_format=torch.channels_last)


def test_a_diverging_training_is_reported_in_one_sentence():
    with pytest.raises(UserError, match="the VAE-GAN diverged: a loss is not finite in epoch 1"):
        train_vaegan(
            vaegan("one", VaeGanConfig(**{**vars(RECIPE), "learning_rate": 1e30})),
            select_class(0),
            make_generator(0, "training"),
        )


@pytest.mark.parametrize("classes", [1, CLASSES])
@pytest.mark.parametrize("is_folded", [True, False])
def test_each_code_of_a_batch_is_decoded_by_the_decoder_of_its_class(classes, is_folded):
    """Images and gradients equal those of codes one by one; folded decoders run layer by layer."""
    models = [vaegan(str(k)).eval().requires_grad_(False) for k in range(classes)]
    decoders = ClassDecoders([fold_decoder(m.decoder) if is_folded else m.decoder for m in models])
    rng = torch.Generator().manual_seed(0)
    codes = torch.randn(3, 20, 4, generator=rng).requires_grad_()
    labels = torch.randint(CLASSES, (3, 20), generator=rng)
    labels[0] = 2  # not every class is in every row
    images = decoders(codes, labels)
    expected = torch.stack(
        [
            models[int(label) % classes].decoder(code[None])[0]
            for code, label in zip(codes.flatten(0, 1), labels.flatten(), strict=True)
        ]
    ).view_as(images)
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(images.square().sum(), codes)
    (expected_gradient,) = torch.autograd.grad(expected.square().sum(), codes)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-4, rtol=1e-4)


def count_saved_numbers(classes, is_folded):
    """Count the numbers that autograd saves when 40 codes are decoded, without the weights."""
    models = [vaegan(str(k)).eval().requires_grad_(False) for k in range(classes)]
    decoders = [fold_decoder(m.decoder) if is_folded else m.decoder for m in models]
    weights = {w.data_ptr() for decoder in decoders for w in decoder.state_dict().values()}
    saved_numbers = {}

    def record(tensor):
        if tensor.data_ptr() not in weights:
            saved_numbers[tensor.data_ptr(), tensor.shape] = tensor.numel()
        return tensor

    codes = torch.zeros(40, 4, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        ClassDecoders(decoders)(codes, torch.arange(40) % classes)
    return sum(saved_numbers.values())


@pytest.mark.parametrize("is_folded", [True, False])
def test_memory_does_not_grow_with_the_number_of_classes(is_folded):
    small, large = (count_saved_numbers(classes, is_folded) for classes in (2, 20))
    assert large == pytest.approx(small, rel=0.1)


def test_decoders_in_train_mode_are_refused():
    with pytest.raises(ValueError, match="train mode"):
        ClassDecoders([vaegan("one").decoder])


@pytest.mark.parametrize("classes", [1, CLASSES])
def test_images_are_encoded_by_the_model_of_their_class_and_clamped(classes):
    data = make_split("test")
    models = [vaegan(str(k)).eval().requires_grad_(False) for k in range(classes)]
    for model in models:
        model.encoder.ends.weight.mul_(20)  # so that some codes exceed the bounds
    codes = encode(models, data)
    for row in range(0, len(data), 17):
        model = models[int(data.labels[row]) % classes]
        code = model.encode(data.select(slice(row, row + 1)).images())[0]
        torch.testing.assert_close(
            codes[row], code.clamp(-LATENT_BOUND, LATENT_BOUND), atol=1e-4, rtol=1e-4
        )
    assert codes.abs().max() == LATENT_BOUND


def test_selected_images_have_their_own_codes():
    data = with_manifolds(make_split("test"))
    rows = torch.tensor([[3, 1], [7, 7]])
    selection = data.select(rows)
    for space, manifold in data.learned.items():
        assert torch.equal(selection.learned[space].codes, manifold.codes[rows])


def test_saved_codes_and_decoders_are_loaded_again(tmp_path):
    data = make_split("test")
    models = [vaegan(name) for name in "LTOP"]
    files = [tmp_path / f"{k}.safetensors" for k in range(5)]
    for model, file in zip(models, files[1:], strict=True):
        model.eval().requires_grad_(False).save(file, {}, provenance("cpu"))
    codes = encode(models, data)
    save_tensors(files[0], {"test": codes}, {"space": "learned_manifold"})
    manifold = load_manifold(files, data.select(slice(12)), "test").learned["learned_manifold"]
    assert torch.equal(manifold.codes, codes[:12])
    decoders = ClassDecoders([model.decoder for model in models])
    labels = data.labels[:12]
    assert torch.equal(manifold.decoders(manifold.codes, labels), decoders(codes[:12], labels))


def test_a_decoder_in_inference_mode_uses_modified_weights():
    codes = torch.randn(3, RECIPE.latent_dim, generator=make_generator(0, "codes"))
    expected = vaegan("A").eval().decoder.requires_grad_(False)(codes)
    with torch.inference_mode():
        decoder = vaegan("A").eval().decoder.requires_grad_(False)
        assert decoder(codes).equal(expected)
        for weights in decoder.parameters():
            weights.zero_()
        assert decoder(codes).eq(0.5).all()
