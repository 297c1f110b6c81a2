"""The training of classifiers, compared with a simple loop over PyTorch's own modules."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import SCHEDULE, make_cohort, make_generators

from robustgen.attacks.search import ascend
from robustgen.attacks.spaces import SPACES
from robustgen.backend import PLAIN, Step
from robustgen.data.split import Split, shuffle_into_batches
from robustgen.errors import UserError
from robustgen.evaluation.attacks import predict
from robustgen.specs import AdversarialTraining, SearchConfig, Threat, TrainConfig
from robustgen.training.classifiers import _make_halves, _make_probe_space, _sample_starts, train

METHODS = {
    "noise": AdversarialTraining(Threat("image", "linf", 0.3), SearchConfig("signed", 0.05, 0)),
    "adversarial": AdversarialTraining(Threat("image", "linf", 0.3), SearchConfig("adam", 0.05, 3)),
    "on_true_manifold": AdversarialTraining(
        Threat("true_manifold", "linf", 0.3), SearchConfig("adam", 0.05, 3)
    ),
    "transformation": AdversarialTraining(
        Threat("transformation", "linf", 0.3), SearchConfig("adam", 0.05, 3)
    ),
    "on_true_manifold_augmentation": AdversarialTraining(
        Threat("true_manifold", "linf", 0.3), SearchConfig("adam", 0.05, 0)
    ),
    "transformation_augmentation": AdversarialTraining(
        Threat("transformation", "linf", 0.3), SearchConfig("adam", 0.05, 0)
    ),
}


def attack_by_hand(model, images, labels, noise, method: AdversarialTraining):
    """Attack images with PyTorch's Adam; return the images of highest loss and their success."""
    radius, search = method.threat.radius, method.search
    lower, upper = (images - radius).clamp(0, 1), (images + radius).clamp(0, 1)
    codes = (images + radius * noise).clamp(lower, upper).requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=search.step_size, maximize=True)
    best_loss = images.new_full(labels.shape, -torch.inf)
    best_codes, success = torch.zeros_like(images), torch.zeros_like(labels, dtype=torch.bool)
    for _ in range(search.steps + 1):
        optimizer.zero_grad()
        logits = model(codes)
        loss = F.cross_entropy(logits, labels, reduction="none")
        is_higher = loss.detach() > best_loss
        best_loss = torch.where(is_higher, loss.detach(), best_loss)
        best_codes = torch.where(is_higher[:, None, None, None], codes.detach(), best_codes)
        success = torch.where(is_higher, logits.argmax(-1) != labels, success)
        loss.sum().backward()
        optimizer.step()
        codes.data = codes.data.clamp(lower, upper)
    return best_codes, success


def train_by_hand(
    model, data: Split, config: TrainConfig, method: AdversarialTraining | None, seed: int
):
    """Train one model in a simple loop; return the rows of its learning curves."""
    optimizer = torch.optim.Adam(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.learning_rate_decay)
    generators = make_generators([seed])
    rows = []
    for _ in range(config.epochs):
        sums = torch.zeros(5)
        counts = torch.zeros(5)
        order = torch.randperm(len(data), generator=generators.batches[0])
        for batch in order.split(config.batch_size):
            images, labels = data.images()[batch], data.labels[batch]
            half = len(batch) if method is None else len(batch) // 2
            if method is not None:
                points = torch.rand(len(batch) - half, 1, 28, 28, generator=generators.attacks[0])
                noise = 2 * points - 1  # float32, like the starts of a search
                model.eval()
                attacked, success = attack_by_hand(
                    model, images[half:], labels[half:], noise, method
                )
                images = torch.cat([images[:half], attacked])
            model.train()
            logits = model(images)
            losses = F.cross_entropy(logits, labels, reduction="none")
            is_wrong = (logits.argmax(-1) != labels).float()
            loss = losses[:half].mean()
            sums[:2] += torch.stack([losses[:half].sum(), is_wrong[:half].sum()]).detach()
            counts[:2] += half
            if method is not None:
                loss = 0.5 * loss + 0.5 * losses[half:].mean()
                sums[2:4] += torch.stack([losses[half:].sum(), is_wrong[half:].sum()]).detach()
                sums[4] += success.sum()
                counts[2:] += len(batch) - half
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows.append((sums / counts).tolist())
        scheduler.step()
    return rows


COLUMNS = ("loss_clean", "error_clean", "loss_attacked", "error_attacked", "error_attacked_eval")
METHODS_BY_HAND = {"normal": None, "adversarial": METHODS["adversarial"], "noise": METHODS["noise"]}


@pytest.mark.parametrize("name", METHODS_BY_HAND)
def test_training_equals_a_simple_loop(training_images, name, caplog):
    """Weights and learning curves are equal, with batches of an odd size and a smaller last one.

    The weight decay is large, because Adam alone hides a wrong scale of the losses.
    """
    data = training_images.select(slice(120))
    data = replace(
        data, source_images=data.images().double(), source_index=torch.arange(120), codes=None
    )
    config = replace(SCHEDULE, epochs=3, batch_size=35, weight_decay=0.05)
    method, seeds = METHODS_BY_HAND[name], [5, 6]
    cohort = make_cohort(seeds).double()
    models = [cohort.member(position).double() for position in range(len(seeds))]
    with caplog.at_level("INFO"):
        curves = train(cohort, data, config, method, make_generators(seeds))
    for position, (model, seed) in enumerate(zip(models, seeds, strict=True)):
        rows = train_by_hand(model, data, config, method, seed)
        for key, tensor in cohort.member(position).double().state_dict().items():
            torch.testing.assert_close(tensor, model.state_dict()[key], atol=1e-6, rtol=1e-4)
        for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
            expected = [
                None if math.isnan(value) else pytest.approx(value, abs=1e-3) for value in values
            ]
            assert curves[column][position :: len(seeds)] == expected, (column, seed)
    assert curves["seed"] == seeds * config.epochs
    assert curves["epoch"] == [1, 1, 2, 2, 3, 3]
    for epoch in range(config.epochs):
        errors = ", ".join(f"{error:.3f}" for error in curves["error_clean"][2 * epoch :][:2])
        sentence = f"epoch {epoch + 1}: error on clean training images {errors}"
        assert sentence in caplog.messages
    rates = [0.01, 0.01 * 0.95, 0.01 * 0.95**2]
    assert curves["learning_rate"][:: len(seeds)] == pytest.approx(rates)


def test_normal_training_reaches_a_low_test_error(trained, test_images):
    rows = predict(trained, test_images)
    is_wrong = rows["prediction"] != rows["label"]
    assert is_wrong.reshape(3, -1).mean(1).max() < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_every_method_lowers_loss_and_error_of_both_halves(training_images, name):
    cohort = make_cohort([0, 1])
    data = training_images.select(slice(200))
    curves = train(cohort, data, SCHEDULE, METHODS[name], make_generators([0, 1]))
    assert not cohort.training
    assert curves["seed"] == [0, 1] * SCHEDULE.epochs
    assert curves["epoch"] == [e for e in range(1, SCHEDULE.epochs + 1) for _ in range(2)]
    assert curves["learning_rate"][-1] == pytest.approx(0.01 * 0.95**3)
    for column in ("loss_clean", "error_clean", "loss_attacked", "error_attacked"):
        assert all(math.isfinite(value) for value in curves[column])
        for seed in (0, 1):
            first_epoch, *_, last_epoch = curves[column][seed::2]  # rows alternate between seeds
            assert last_epoch < first_epoch, (column, seed)
    assert all(0 <= rate <= 1 for rate in curves["error_attacked_eval"])


@pytest.mark.parametrize("name", METHODS)
def test_the_second_half_of_a_batch_is_the_result_of_the_search(training_images, name):
    method, batch = METHODS[name], training_images.select(slice(40)).expand(2)
    cohort = make_cohort([0, 1])
    probe_space = _make_probe_space(training_images, method)
    starts = _sample_starts(cohort, probe_space, 40, method, make_generators([0, 1]).attacks)
    clean, attacked, result = _make_halves(cohort, batch, method, starts)
    second_half = batch.select((slice(None), slice(20, None)))
    space = SPACES[method.threat.space](second_half)
    assert torch.equal(clean, batch.images()[:, :20])
    assert torch.equal(attacked, space.decode(result.codes))
    norms = (attacked - second_half.images()).flatten(2).norm(dim=2)
    assert (norms > 0.1).all()


def test_curves_of_normal_training_have_no_values_for_attacked_images(training_images):
    data = training_images.select(slice(60))
    curves = train(make_cohort([0]), data, SCHEDULE, None, make_generators([0]))
    for column in ("loss_attacked", "error_attacked", "error_attacked_eval"):
        assert curves[column] == [None] * SCHEDULE.epochs


@pytest.mark.parametrize(
    ("examples", "sizes"),
    [(250, [100, 100, 50]), (201, [100, 101]), (100, [100]), (40, [40])],
    ids=["a short last batch", "no batch of one", "one batch", "less than a batch"],
)
def test_the_batches_of_an_epoch_contain_every_image_once(examples, sizes):
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    epoch_batches = shuffle_into_batches(examples, 100, generators)
    assert [rows.shape[1] for rows in epoch_batches] == sizes
    order = torch.cat(list(epoch_batches), 1)
    assert torch.equal(order.sort(1).values, torch.arange(examples).expand(2, -1))
    assert not torch.equal(order[0], order[1])


def test_diverged_training_is_refused_with_epoch_and_learning_rate(training_images):
    cohort, config = make_cohort([0]), TrainConfig(3, 50, 0.25, 0.95, 0.0)
    next(cohort.parameters()).data.fill_(torch.nan)
    with pytest.raises(UserError, match=r"not finite in epoch 1 at learning rate 0\.25"):
        train(cohort, training_images.select(slice(60)), config, None, make_generators([0]))


@pytest.mark.parametrize(
    ("space", "needs_host_sync"),
    [("image", False), ("true_manifold", False), ("learned_manifold", True)],
)
def test_only_a_space_with_several_decoders_synchronizes(training_images, space, needs_host_sync):
    """Its updates are not compiled, because a compiled step must not wait for the device."""
    method = AdversarialTraining(Threat(space, "linf", 0.1), SearchConfig("signed", 0.1, 1))
    assert _make_probe_space(training_images, method).needs_host_sync is needs_host_sync
    compiled_steps: list[Step] = []

    def compile_step(step: Step) -> Step:
        compiled_steps.append(step)
        return step

    cohort = make_cohort([0])
    cohort.backend = replace(PLAIN, compile_step=compile_step)
    data, config = training_images.select(slice(8)), replace(SCHEDULE, epochs=1)
    train(cohort, data, config, method, make_generators([0]))
    assert len(compiled_steps) == (0 if needs_host_sync else 1)
    train(cohort, data, config, None, make_generators([0]))
    assert len(compiled_steps) == (1 if needs_host_sync else 2)


def test_training_searches_with_the_backend_of_the_cohort(training_images):
    searches = []

    def ascend_and_record(*arguments):
        searches.append(arguments)
        ascend(*arguments)

    cohort, data = make_cohort([0]), training_images.select(slice(40))
    cohort.backend = replace(PLAIN, ascend=ascend_and_record)
    config = replace(SCHEDULE, epochs=2, batch_size=20)
    train(cohort, data, config, METHODS["adversarial"], make_generators([0]))
    assert len(searches) == 2 * 2
