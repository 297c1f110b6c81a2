import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import SCHEDULE, make_cohort, make_generators

from robustgen.attacks.spaces import SPACES
from robustgen.data.split import Split
from robustgen.data.split import batches as batches_of
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
    """The highest loss of all steps for each image, by PyTorch's optimizer: `(images, success)`."""
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
        higher = loss.detach() > best_loss
        best_loss = torch.where(higher, loss.detach(), best_loss)
        best_codes = torch.where(higher[:, None, None, None], codes.detach(), best_codes)
        success = torch.where(higher, logits.argmax(-1) != labels, success)
        loss.sum().backward()
        optimizer.step()
        codes.data = codes.data.clamp(lower, upper)
    return best_codes, success


def train_by_hand(
    model, data: Split, schedule: TrainConfig, method: AdversarialTraining | None, seed: int
):
    """One model, trained by a loop as anyone would write it: the rows of its learning curves."""
    optimizer = torch.optim.Adam(
        model.parameters(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, schedule.learning_rate_decay)
    generators = make_generators([seed])
    rows = []
    for _ in range(schedule.epochs):
        sums = torch.zeros(5)
        counts = torch.zeros(5)
        order = torch.randperm(len(data), generator=generators.batches[0])
        for batch in order.split(schedule.batch_size):
            images, labels, attacked = data.images()[batch], data.labels[batch], 0
            if method is not None:
                half = len(batch) // 2
                attacked = len(batch) - half
                noise = (
                    2 * torch.rand(attacked, 1, 28, 28, generator=generators.attacks[0]).double()
                    - 1
                )
                model.eval()
                found, success = attack_by_hand(model, images[half:], labels[half:], noise, method)
                images = torch.cat([images[:half], found])
            model.train()
            logits = model(images)
            losses = F.cross_entropy(logits, labels, reduction="none")
            wrong = (logits.argmax(-1) != labels).float()
            clean = slice(0, len(batch) - attacked)
            loss = losses[clean].mean()
            sums[:2] += torch.stack([losses[clean].sum(), wrong[clean].sum()]).detach()
            counts[:2] += len(batch) - attacked
            if method is not None:
                loss = 0.5 * loss + 0.5 * losses[half:].mean()
                sums[2:4] += torch.stack([losses[half:].sum(), wrong[half:].sum()]).detach()
                sums[4] += success.sum()
                counts[2:] += attacked
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        rows.append((sums / counts).tolist())
        decay.step()
    return rows


COLUMNS = ("loss_clean", "error_clean", "loss_attacked", "error_attacked", "success_rate")
BY_HAND = {"normal": None, "adversarial": METHODS["adversarial"], "noise": METHODS["noise"]}


@pytest.mark.parametrize("name", BY_HAND)
def test_training_equals_a_plain_loop(training_images, name):
    """Weights and learning curves, of batches of odd sizes, the last of which is smaller."""
    data = training_images.take(slice(120))
    data = replace(data, bank=data.images().double(), source=torch.arange(120), codes=None)
    schedule = replace(SCHEDULE, epochs=3, batch_size=35)
    cohort = make_cohort([5]).double()
    plain = cohort.member(0).double()
    curves = train(cohort, data, schedule, BY_HAND[name], make_generators([5]))
    rows = train_by_hand(plain, data, schedule, BY_HAND[name], seed=5)
    for key, tensor in cohort.member(0).double().state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[key], atol=1e-6, rtol=1e-4)
    for column, values in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        expected = [
            None if math.isnan(value) else pytest.approx(value, abs=1e-3) for value in values
        ]
        assert curves[column] == expected, column
    assert curves["epoch"] == [1, 2, 3]
    assert curves["rate"] == pytest.approx([0.01, 0.01 * 0.95, 0.01 * 0.95**2])


def test_normal_models_learn(trained, test_images):
    answers = predict(trained, test_images)
    wrong = answers["prediction"] != answers["label"]
    assert wrong.reshape(3, -1).mean(1).max() < 0.2


@pytest.mark.parametrize("name", METHODS)
def test_methods_train_and_tell_of_both_halves(training_images, name):
    cohort = make_cohort([0, 1])
    data = training_images.take(slice(200))
    curves = train(cohort, data, SCHEDULE, METHODS[name], make_generators([0, 1]))
    assert not cohort.training
    assert curves["seed"] == [0, 1] * SCHEDULE.epochs
    assert curves["epoch"] == [e for e in range(1, SCHEDULE.epochs + 1) for _ in range(2)]
    assert curves["rate"][-1] == pytest.approx(0.01 * 0.95**3)
    for column in ("loss_clean", "error_clean", "loss_attacked", "error_attacked"):
        assert all(math.isfinite(value) for value in curves[column])
        for seed in (0, 1):
            first, *_, last = curves[column][seed::2]  # of one seed, epoch by epoch
            assert last < first, (column, seed)
    assert all(0 <= rate <= 1 for rate in curves["success_rate"])


@pytest.mark.parametrize("name", METHODS)
def test_the_second_half_is_what_the_search_found(training_images, name):
    method, batch = METHODS[name], training_images.take(slice(40)).expand(2)
    cohort = make_cohort([0, 1])
    around = _make_probe_space(training_images, method)
    drawn = _sample_starts(cohort, around, 40, method, make_generators([0, 1]).attacks)
    clean, attacked, found = _make_halves(cohort, batch, method, drawn)
    rest = batch.take((slice(None), slice(20, None)))
    space = SPACES[method.threat.space](rest)
    assert torch.equal(clean, batch.images()[:, :20])
    assert torch.equal(attacked, space.decode(found.codes))
    moved = (attacked - rest.images()).flatten(2).norm(dim=2)
    assert (moved > 0.1).all()


def test_normal_curves_leave_the_attacked_half_empty(training_images):
    data = training_images.take(slice(60))
    curves = train(make_cohort([0]), data, SCHEDULE, None, make_generators([0]))
    for column in ("loss_attacked", "error_attacked", "success_rate"):
        assert curves[column] == [None] * SCHEDULE.epochs


@pytest.mark.parametrize(
    ("examples", "sizes"),
    [(250, [100, 100, 50]), (201, [100, 101]), (100, [100]), (40, [40])],
    ids=["a short last batch", "no batch of one", "one batch", "less than a batch"],
)
def test_batches(examples, sizes):
    rngs = [torch.Generator().manual_seed(i) for i in range(2)]
    batches = batches_of(examples, 100, rngs)
    assert [batch.shape[1] for batch in batches] == sizes
    rows = torch.cat(list(batches), 1)
    assert torch.equal(rows.sort(1).values, torch.arange(examples).expand(2, -1))
    assert not torch.equal(rows[0], rows[1])


def test_divergence_stops_with_epoch_and_rate(training_images):
    images = training_images.take(slice(60))
    broken = type(images)(
        images.bank * torch.nan, images.source, images.labels, None, images.ranges, images.classes
    )
    schedule = TrainConfig(3, 50, 0.25, 0.95, 0.0)
    with pytest.raises(UserError, match=r"not finite in epoch 1 at learning rate 0\.25"):
        train(make_cohort([0]), broken, schedule, None, make_generators([0]))


@pytest.mark.parametrize(
    ("space", "waits"),
    [("image", False), ("true_manifold", False), ("learned_manifold", True)],
)
def test_only_decoders_of_classes_wait_for_a_gpu(training_images, space, waits):
    method = AdversarialTraining(Threat(space, "linf", 0.1), SearchConfig("signed", 0.1, 1))
    assert _make_probe_space(training_images, method).needs_host_sync is waits
