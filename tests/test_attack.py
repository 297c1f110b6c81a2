from dataclasses import replace

import pytest
import torch
from conftest import make_cohort, make_generators, stacked
from hypothesis import given, settings
from hypothesis import strategies as st

from robustgen import evaluation
from robustgen.attack import STEP_RULES, Search, search
from robustgen.datasets import Split
from robustgen.errors import UserError
from robustgen.evaluation import attack, predictions
from robustgen.seeding import generator
from robustgen.spaces import SPACES, Threat, gather, sizes

SPACE_AND_NORM = [(space, norm) for space in SPACES for norm in ("linf", "l2")]


def run(model, split, threat, how, members=3, examples=40, **more):
    batch = stacked(split, members, examples)
    space = SPACES[threat.space](batch)
    generators = make_generators(list(range(members))).attacks
    more = {"stop_at_success": True, **more}
    return space, search(model, space, batch.labels, threat, how, generators, **more)


@pytest.mark.parametrize(("space", "norm"), SPACE_AND_NORM)
@settings(max_examples=20, deadline=None)
@given(radius=st.floats(1e-3, 2), seed=st.integers(0, 2**31))
def test_projections_and_draws_lie_in_ball_and_bounds(test_images, space, norm, radius, seed):
    batch, threat = stacked(test_images, 2, 8), Threat(space, norm, radius)
    around = SPACES[space](batch)
    rng = torch.Generator().manual_seed(seed)
    far = around.origin + 3 * torch.randn(around.origin.shape, generator=rng)
    for codes in (around.project(far, threat), around.sample(threat, [rng, rng])):
        assert (sizes(codes - around.origin)[norm] <= radius * (1 + 1e-5) + 1e-6).all()
        assert (codes >= around.low).all()
        assert (codes <= around.high).all()
    inside = around.sample(Threat(space, norm, radius / 2), [rng, rng])
    torch.testing.assert_close(around.project(inside, threat), inside)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_draws_are_uniform_in_the_ball(test_images, norm):
    # Far from the bounds, half of the volume lies within 2 ** (-1 / D) of the radius.
    batch = stacked(test_images, 1, 240)
    space = SPACES["true_manifold"](batch)
    space = type(space)(space.origin, space.low - 9, space.high + 9, space.images)
    codes = space.sample(Threat("true_manifold", norm, 0.3), make_generators([0]).attacks)
    inner = sizes(codes - space.origin)[norm] <= 0.3 * 2 ** (-1 / 6)
    assert 0.39 < inner.float().mean() < 0.61


@pytest.mark.parametrize("rule", STEP_RULES)
@pytest.mark.parametrize(("space", "norm"), SPACE_AND_NORM)
def test_search_raises_the_loss_within_the_threat(trained, test_images, space, norm, rule):
    radius = 0.1 if norm == "linf" else 0.5
    threat = Threat(space, norm, radius)
    around, found = run(trained, test_images, threat, Search(rule, 0.02, 10), stop_at_success=False)
    _, drawn = run(trained, test_images, threat, Search(rule, 0.02, 0), stop_at_success=False)
    assert (found.loss >= drawn.loss - 1e-6).all()
    assert found.loss.mean() > drawn.loss.mean()
    assert (sizes(found.codes - around.origin)[norm] <= radius * (1 + 1e-5)).all()


def test_what_is_returned_is_what_was_found(trained, test_images):
    batch = stacked(test_images, 3, 40)
    for stop in (True, False):
        space, found = run(
            trained,
            test_images,
            Threat("image", "linf", 0.1),
            Search("adam", 0.01, 10, restarts=2),
            stop_at_success=stop,
        )
        logits = trained(space.decode(found.codes))
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), reduction="none"
        ).view(3, 40)
        torch.testing.assert_close(found.loss, loss, atol=1e-4, rtol=1e-4)
        assert torch.equal(found.success, logits.argmax(-1) != batch.labels)
        assert torch.equal(found.iterations >= 0, found.success)
        assert torch.equal(found.restart >= 0, found.success)


def test_leaving_at_success_finds_what_a_search_of_single_examples_finds(trained, test_images):
    """Narrowing the batch changes no example: each is found as if searched with the full batch."""
    threat, how = Threat("image", "linf", 0.2), Search("adam", 0.02, 10)
    _, found = run(trained, test_images, threat, how)
    batch = stacked(test_images, 3, 40)
    space = SPACES["image"](batch)
    start = space.sample(threat, make_generators([0, 1, 2]).attacks)
    rule, codes = STEP_RULES["adam"](start), start
    first = torch.full_like(batch.labels, -1)
    for step in range(how.steps + 1):
        codes = codes.detach().requires_grad_()
        logits = trained(codes)
        wrong = logits.argmax(-1) != batch.labels
        first = torch.where((first < 0) & wrong, step, first)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"
        )
        (gradient,) = torch.autograd.grad(loss, codes)
        codes = space.project(codes.detach() + how.step_size * rule(gradient), threat)
    assert 0.1 < found.success.float().mean() < 0.99
    assert torch.equal(found.iterations, first)


def test_more_restarts_only_add_successes(trained, test_images):
    threat = Threat("image", "linf", 0.2)
    _, one = run(trained, test_images, threat, Search("adam", 0.02, 5))
    _, three = run(trained, test_images, threat, Search("adam", 0.02, 5, restarts=3))
    assert one.success.any()
    assert (three.restart > 0).any()
    assert (three.success | ~one.success).all()
    assert torch.equal(three.iterations[one.success], one.iterations[one.success])
    assert (three.restart[one.success] == 0).all()
    assert torch.equal(three.codes[one.success], one.codes[one.success])


def test_skipped_examples_are_left_alone(trained, test_images):
    skip = torch.arange(40).expand(3, 40) % 2 == 0
    space, found = run(
        trained, test_images, Threat("image", "linf", 0.3), Search("adam", 0.05, 5), skip=skip
    )
    assert torch.equal(found.codes[skip], space.origin[skip])
    assert not found.success[skip].any()
    assert found.success[~skip].any()


def test_train_mode_is_an_error(trained, test_images):
    trained.train()
    try:
        with pytest.raises(ValueError, match="train mode"):
            run(trained, test_images, Threat("image", "linf", 0.3), Search("adam", 0.1, 1))
    finally:
        trained.eval()


def test_zero_gradients_give_finite_steps(test_images):
    def constant(images):
        return images.flatten(2).sum(2, keepdim=True).expand(-1, -1, 4) * 0 + torch.arange(4.0)

    for rule in STEP_RULES:
        _, found = run(
            constant, test_images, Threat("image", "l2", 0.3), Search(rule, 0.1, 2), members=1
        )
        assert found.codes.isfinite().all()


@pytest.mark.parametrize("space", SPACES)
def test_every_recorded_success_fools_the_plain_model(trained, test_images, space):
    threat = Threat(space, "linf", 0.2)
    data = test_images.take(slice(120))
    generators = make_generators([0, 1, 2]).attacks
    made = attack(trained, data, threat, Search("adam", 0.02, 10), generators)
    success = torch.from_numpy(made.rows["success"]).view(3, 120)
    right = torch.from_numpy(made.rows["prediction"] == made.rows["label"]).view(3, 120)
    assert success.any()
    assert (right | ~success).all()
    for i in range(3):
        member = trained.member(i)
        clean = member(data.images()).argmax(-1) == data.labels
        assert torch.equal(clean, right[i])
        fooled = member(made.images[i]).argmax(-1) != data.labels
        assert fooled[success[i]].all()
        assert torch.equal(made.images[i][~right[i]], data.images()[~right[i]])
    assert (made.rows["code_linf"] <= 0.2 * (1 + 1e-5)).all()
    assert made.images.min() >= 0
    assert made.images.max() <= 1 + 1e-6


def test_what_the_model_gets_wrong_is_not_attacked(trained, test_images):
    data = test_images.take(slice(60))
    labels = torch.where(torch.arange(60) < 20, (data.labels + 1) % 4, data.labels)
    data = replace(data, labels=labels)
    threat, generators = Threat("image", "linf", 0.3), make_generators([0, 1, 2]).attacks
    rows = attack(trained, data, threat, Search("adam", 0.05, 5), generators).rows
    wrong = rows["prediction"] != rows["label"]
    assert wrong.sum() >= 3 * 18
    assert not rows["success"][wrong].any()
    assert (rows["image_linf"][wrong] == 0).all()
    assert rows["success"][~wrong].any()


def test_examples_out_of_ball_and_bounds_are_refuted(monkeypatch, trained, test_images):
    """The projection is made to do nothing: what it lets out may not count."""
    monkeypatch.setattr("robustgen.spaces.Space.project", lambda *args: args[1])
    data, generators = test_images.take(slice(60)), make_generators([0, 1, 2]).attacks
    threat = Threat("image", "linf", 0.01)
    made = attack(trained, data, threat, Search("adam", 0.1, 10), generators)
    assert (made.rows["code_linf"] > 0.1).mean() > 0.9
    assert not made.rows["success"].any()


def test_a_success_that_the_plain_model_denies_is_refuted(monkeypatch, trained, test_images):
    """The stack is made to lie: no success of its may reach the table."""
    honest = trained.forward
    monkeypatch.setattr(trained, "forward", lambda images: -honest(images))
    made = attack(
        trained,
        test_images.take(slice(40)),
        Threat("image", "linf", 1e-4),
        Search("adam", 1e-5, 2),
        make_generators([0, 1, 2]).attacks,
    )
    assert not made.rows["success"].any()
    assert made.rows["iterations"].mask.all()


def test_gather_takes_columns_per_member():
    values = torch.arange(6).view(2, 3)
    index = torch.tensor([[2, 0], [1, 1]])
    assert gather(values, index).tolist() == [[2, 0], [4, 4]]


def test_a_loss_that_is_not_finite_is_told(trained, test_images):
    """Logits beyond all numbers: right answers, but nothing an attack could climb."""
    cohort = make_cohort([0, 1, 2])
    cohort.load_state_dict(trained.state_dict())
    with torch.no_grad():
        cohort.stack.get_parameter("13__weight").mul_(1e38)
    threat, how = Threat("image", "linf", 0.1), Search("adam", 0.05, 2)
    generators = make_generators([0, 1, 2]).attacks
    with pytest.raises(UserError, match="a loss is not finite under the threat"):
        attack(cohort.eval(), test_images.take(slice(40)), threat, how, generators)


def test_logits_that_are_not_finite_are_no_predictions(test_images):
    cohort = make_cohort([0, 1]).eval()
    with torch.no_grad():
        cohort.stack.get_parameter("13__weight")[1] *= torch.inf
    with pytest.raises(UserError, match="training diverged: logits are not finite"):
        predictions(cohort, test_images)


@pytest.mark.parametrize("restarts", [1, 2])
def test_batches_at_once_start_as_one_after_the_other(trained, test_images, monkeypatch, restarts):
    def made():
        threat, how = Threat("image", "linf", 0.1), Search("signed", 0.02, 3, restarts)
        return attack(trained, test_images, threat, how, [generator(0, i) for i in range(3)])

    plain = made()
    assert len(test_images) > 2 * evaluation.BATCH
    monkeypatch.setattr(evaluation, "at_once", lambda *_: 2 * evaluation.BATCH)
    other = made()
    assert torch.equal(other.codes, plain.codes)
    assert all((other.rows[name] == plain.rows[name]).all() for name in ("success", "iterations"))


@pytest.mark.parametrize(
    ("side", "restarts", "expected"), [(28, 1, 2000), (28, 5, 2000), (256, 1, 700), (256, 20, 100)]
)
def test_large_images_are_attacked_in_fewer_batches_on_a_gpu(side, restarts, expected):
    rows = torch.zeros(3, dtype=torch.int64, device="meta")  # no CPU, and so as on a GPU
    bank = torch.empty(1, 1, side, side, device="meta")
    split = Split(bank, rows, rows, None, (rows, rows), ("a", "b"))
    cohort = make_cohort([0], (1, 28, 28), classes=2)
    assert evaluation.at_once(cohort, split, restarts) == expected
