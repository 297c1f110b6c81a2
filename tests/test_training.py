import math

import pytest
import torch
import torch.nn.functional as F
from conftest import SCHEDULE, make_cohort, make_generators, stacked

from robustgen.attack import Search
from robustgen.datasets import batches as batches_of
from robustgen.errors import UserError
from robustgen.evaluation import predictions
from robustgen.spaces import SPACES, Threat
from robustgen.training import Method, Schedule, _around_one, _draws, _halves, train

METHODS = {
    "adversarial": Method(Threat("image", "linf", 0.3), Search("adam", 0.05, 3)),
    "on_true_manifold": Method(Threat("true_manifold", "linf", 0.3), Search("adam", 0.05, 3)),
    "transformation": Method(Threat("transformation", "linf", 0.3), Search("adam", 0.05, 3)),
    "on_true_manifold_augmentation": Method(
        Threat("true_manifold", "linf", 0.3), Search("adam", 0.05, 0)
    ),
    "transformation_augmentation": Method(
        Threat("transformation", "linf", 0.3), Search("adam", 0.05, 0)
    ),
}


def test_normal_training_equals_a_plain_loop(training_images):
    """One model, trained by a loop as anyone would write it."""
    data = training_images.take(slice(120))
    cohort = make_cohort([5])
    plain = cohort.member(0).train()
    train(cohort, data, SCHEDULE, None, make_generators([5]))
    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01, weight_decay=1e-4)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    rng = make_generators([5]).batches[0]
    for _ in range(SCHEDULE.epochs):
        for rows in torch.randperm(120, generator=rng).split(50):
            optimizer.zero_grad()
            F.cross_entropy(plain(data.images()[rows]), data.labels[rows]).backward()
            optimizer.step()
        decay.step()
    for name, tensor in cohort.member(0).state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name], atol=1e-4, rtol=1e-3)


def test_normal_models_learn(trained, test_images):
    answers = predictions(trained, test_images)
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
        assert curves[column][-1] < curves[column][0]
    assert all(0 <= rate <= 1 for rate in curves["success_rate"])


@pytest.mark.parametrize("name", METHODS)
def test_the_second_half_is_what_the_search_found(training_images, name):
    method, batch = METHODS[name], stacked(training_images, 2, 40)
    cohort = make_cohort([0, 1])
    around = _around_one(training_images, method)
    drawn = _draws(around, 40, method, make_generators([0, 1]).attacks)
    clean, attacked, found = _halves(cohort, batch, method, drawn)
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
    schedule = Schedule(3, 50, 0.25, 0.95, 0.0)
    with pytest.raises(UserError, match=r"not finite in epoch 1 at learning rate 0\.25"):
        train(make_cohort([0]), broken, schedule, None, make_generators([0]))


@pytest.mark.parametrize(
    ("space", "waits"),
    [("image", False), ("true_manifold", False), ("learned_manifold", True)],
)
def test_only_decoders_of_classes_wait_for_a_gpu(training_images, space, waits):
    method = Method(Threat(space, "linf", 0.1), Search("signed", 0.1, 1))
    assert _around_one(training_images, method).waits is waits
