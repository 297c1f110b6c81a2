"""The evaluation of attacks: what counts as a success, and what the table and the images hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_cohort
from tiny import (
    CLASSES,
    SHAPE,
    TinyCohort,
    in_single_precision,
    make_tiny_split,
)
from torch import Tensor

from robustgen.attacks.search import SearchResult, run_search_from_starts
from robustgen.attacks.spaces import SPACES
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.evaluation import attacks as evaluation
from robustgen.evaluation.attacks import attack_cohort, predict
from robustgen.models.predictions import NO_CLASS
from robustgen.sampling import sample_unit_ball
from robustgen.specs import SearchConfig, Threat

MEMBERS, EXAMPLES, WRONG = 2, 30, 4
"""Models, images, and how many of the images no model gets right."""
THREAT, SEARCH = Threat("image", "linf", 0.25), SearchConfig("signed", 0.1, steps=4, restarts=2)
SPACES_WITH_RADIUS = {"image": 0.25, "true_manifold": 0.4, "learned_manifold": 1.0}


class FlatCohort(TinyCohort):
    """Models of float numbers that agree on most images, so that labels can be right for all."""

    def __init__(self, members: int = MEMBERS) -> None:
        super().__init__(members)
        self.hidden, self.output = self.hidden.float(), self.output.float()
        self.hidden = self.hidden[:1] + 0.2 * (self.hidden - self.hidden[:1])
        self.output = self.output[:1] + 0.2 * (self.output - self.output[:1])


class LyingCohort(FlatCohort):
    """Models whose fast pass is fooled as usual, while their plain pass predicts the labels."""

    def __init__(self, labels: Tensor, denied: Tensor) -> None:
        super().__init__()
        self.labels, self.denied = labels, denied

    def reference_forward(self, images: Tensor) -> Tensor:
        """Logits of the labels for examples that are `denied` `(B,)`, else the true ones."""
        one_hot = 5 * F.one_hot(self.labels, CLASSES).float().expand(len(images), -1, -1)
        return torch.where(self.denied[:, None], one_hot, self(images))


@pytest.fixture
def cohort() -> FlatCohort:
    return FlatCohort()


@pytest.fixture
def data(cohort: FlatCohort) -> Split:
    """Images labelled as the first model predicts, except for the first ones."""
    split = in_single_precision(make_tiny_split(EXAMPLES))
    with torch.no_grad():
        labels = cohort(split.images()[None].expand(MEMBERS, -1, -1, -1, -1)).argmax(-1)[0]
    labels[:WRONG] = (labels[:WRONG] + 1) % CLASSES
    return replace(split, labels=labels)


def generators(members: int = MEMBERS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(members)]


def by_model(rows, column: str) -> Tensor:
    values = np.ma.filled(rows[column], -1) if np.ma.isMA(rows[column]) else rows[column]
    return torch.from_numpy(np.array(values)).view(MEMBERS, -1)


def clean_predictions(cohort: TinyCohort, data: Split) -> Tensor:
    images = data.images().expand(MEMBERS, len(data), *SHAPE)
    return cohort(images).argmax(-1)


@pytest.mark.parametrize(("space", "radius"), SPACES_WITH_RADIUS.items())
def test_the_table_and_the_examples_are_those_of_the_search(cohort, data, space, radius):
    threat = Threat(space, "linf", radius)
    result = attack_cohort(cohort, data, threat, SEARCH, generators())
    batch = data.expand(MEMBERS)
    space = SPACES[space](batch)
    right = clean_predictions(cohort, data) == data.labels
    drawn_by = generators()
    noise = [
        sample_unit_ball("linf", space.clean_codes.shape[1:], drawn_by)
        for _ in range(SEARCH.restarts)
    ]
    found = run_search_from_starts(
        cohort, space, batch.labels, threat, SEARCH, noise, stop_at_success=True, skip=~right
    )
    images = torch.where(right[:, :, None, None, None], space.decode(found.codes), batch.images())
    assert torch.equal(result.codes, found.codes)
    torch.testing.assert_close(result.images, images, atol=0, rtol=0)
    rows = result.rows
    assert (~right).sum() >= MEMBERS * WRONG
    assert found.success.any()
    assert (right & ~found.success).any()
    for column in ("success", "iterations", "restart"):
        assert torch.equal(by_model(rows, column), getattr(found, column)), column
    assert torch.equal(by_model(rows, "prediction"), clean_predictions(cohort, data))
    logits = cohort(images)
    assert torch.equal(by_model(rows, "answer"), logits.argmax(-1))
    loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
    torch.testing.assert_close(by_model(rows, "loss").flatten(), loss)
    start = cohort(space.decode(space.clean_codes)).argmax(-1) == batch.labels
    assert torch.equal(by_model(rows, "start_correct"), start)
    for name, delta in (
        ("image", images - batch.images()),
        ("code", found.codes - space.clean_codes),
    ):
        delta = delta.flatten(2)
        torch.testing.assert_close(by_model(rows, f"{name}_l1"), delta.abs().sum(2))
        torch.testing.assert_close(by_model(rows, f"{name}_l2"), delta.square().sum(2).sqrt())
        torch.testing.assert_close(by_model(rows, f"{name}_linf"), delta.abs().amax(2))


def test_rows_are_in_order_of_models_and_then_of_examples(cohort, data):
    rows = attack_cohort(cohort, data, THREAT, SEARCH, generators()).rows
    assert rows["seed"].tolist() == [10] * EXAMPLES + [11] * EXAMPLES
    assert rows["example"].tolist() == [*range(EXAMPLES)] * MEMBERS
    assert rows["label"].tolist() == data.labels.tolist() * MEMBERS


def test_images_that_a_model_gets_wrong_are_saved_unchanged(cohort, data):
    """Each model has its own ones; on a learned manifold too, where decoding changes images."""
    threat = Threat("learned_manifold", "linf", 1.0)
    result = attack_cohort(cohort, data, threat, SEARCH, generators())
    wrong = clean_predictions(cohort, data) != data.labels
    assert not torch.equal(wrong[0], wrong[1])
    images = data.images().expand(MEMBERS, *data.images().shape)
    assert torch.equal(result.images[wrong], images[wrong])
    codes = data.learned["learned_manifold"].codes.clamp(-2, 2).expand(MEMBERS, -1, -1)
    assert torch.equal(result.codes[wrong], codes[wrong])
    assert not by_model(result.rows, "success")[wrong].any()
    for column in ("image_l1", "image_l2", "image_linf", "code_l1", "code_l2", "code_linf"):
        assert (by_model(result.rows, column)[wrong] == 0).all()
    moved = (result.images[~wrong] - images[~wrong]).flatten(1).norm(dim=1)
    assert (moved > 0).all()


def test_where_decoding_alone_changes_the_prediction_start_correct_says_so(cohort, data):
    """`start_correct` is about the decoded code, `prediction` about the image itself."""
    threat = Threat("learned_manifold", "linf", 1.0)
    rows = attack_cohort(cohort, data, threat, SEARCH, generators()).rows
    right = by_model(rows, "prediction") == data.labels
    start = by_model(rows, "start_correct")
    assert (right & ~start).any()
    assert (right & start).any()
    on_pixels = attack_cohort(cohort, data, THREAT, SEARCH, generators()).rows
    assert torch.equal(by_model(on_pixels, "start_correct"), right)


def test_a_success_that_the_plain_models_deny_is_refuted(data, caplog):
    """Only the plain pass denies; the fast one, by which the search goes, is fooled as usual."""
    denied = torch.arange(EXAMPLES) % 2 == 0
    caplog.set_level("INFO")
    honest = attack_cohort(FlatCohort(), data, THREAT, SEARCH, generators()).rows
    lying = attack_cohort(LyingCohort(data.labels, denied), data, THREAT, SEARCH, generators()).rows
    claimed = by_model(honest, "success")
    refuted = claimed & denied
    assert refuted.any()
    assert (claimed & ~denied).any()
    assert torch.equal(by_model(lying, "success"), claimed & ~denied)
    for column in ("iterations", "restart"):
        assert lying[column].mask.reshape(MEMBERS, -1)[refuted.numpy()].all()
        kept = claimed & ~denied
        assert torch.equal(by_model(lying, column)[kept], by_model(honest, column)[kept])
    assert torch.equal(by_model(lying, "answer")[refuted], data.labels.expand(2, -1)[refuted])
    messages = [record.getMessage() for record in caplog.records if "refuted" in record.message]
    assert messages == [
        f"{int(claimed.sum())} successes, 0 refuted by the re-check",
        f"{int((claimed & ~denied).sum())} successes, {int(refuted.sum())} refuted by the re-check",
    ]


def fill_images(split: Split, pixel: float) -> Split:
    """The same examples, whose images have this value everywhere."""
    return replace(split, bank=torch.full_like(split.bank, pixel), codes=None)


ODD = torch.arange(EXAMPLES) % 2 == 1


def move_odd_codes(monkeypatch, delta: float) -> None:
    """Let the search claim a success for each image, and move those of odd number by `delta`."""

    def claim(*args, skip, **_) -> SearchResult:
        space = args[1]
        success = ~skip
        is_moved = (success & ODD)[:, :, None, None, None]
        codes = torch.where(is_moved, space.clean_codes + delta, space.clean_codes)
        first = success.long() - 1
        return SearchResult(codes, torch.ones_like(codes[:, :, 0, 0, 0]), success, first, first)

    monkeypatch.setattr(evaluation, "run_search_from_starts", claim)


def relabel_and_deny(monkeypatch, split: Split) -> tuple[FlatCohort, Split]:
    """Equal images, labelled as the fast pass predicts; the plain pass predicts another class."""
    cohort = FlatCohort()
    with torch.no_grad():
        label = cohort(split.images()[:1].expand(MEMBERS, -1, -1, -1, -1)).argmax(-1)[0]
    wrong = 5 * F.one_hot((label + 1) % CLASSES, CLASSES).float()
    monkeypatch.setattr(cohort, "reference_forward", lambda images: cohort(images) * 0 + wrong)
    return cohort, replace(split, labels=label.expand(EXAMPLES).clone())


@pytest.mark.parametrize(
    ("norm", "radius", "delta", "counts"),
    [
        ("linf", 0.25, 0.25, True),
        ("linf", 0.25, 0.25 + 1e-6, True),  # rounding
        ("linf", 0.25, 0.25 + 1e-5, False),
        ("linf", 0.25, -0.25 - 1e-5, False),
        ("l2", 0.5, 0.5 / 6**0.5, True),
        ("l2", 0.5, 0.5 / 6**0.5 + 1e-5, False),
        ("l2", 0.25, 0.2, False),
        ("linf", 1e-3, 1e-3 + 5e-7, True),  # where a share of the radius is less than rounding
        ("linf", 1e-3, 1e-3 + 2e-6, False),
    ],
)
def test_a_success_out_of_the_ball_is_refuted(monkeypatch, data, norm, radius, delta, counts):
    """The plain models call each example wrong, so that only the ball can refute it."""
    cohort, grey = relabel_and_deny(monkeypatch, fill_images(data, 0.4))
    move_odd_codes(monkeypatch, delta)
    rows = attack_cohort(cohort, grey, Threat("image", norm, radius), SEARCH, generators()).rows
    attacked = by_model(rows, "prediction") == grey.labels
    assert attacked.any()
    assert torch.equal(by_model(rows, "success"), attacked & (counts | ~ODD))


@pytest.mark.parametrize(
    ("pixel", "delta", "counts"),
    [
        (1.0, 0.0, True),
        (1.0, 5e-6, True),
        (1.0, 1e-4, False),
        (0.0, -5e-6, True),
        (0.0, -1e-4, False),
    ],
)
def test_a_success_out_of_bounds_is_refuted(monkeypatch, data, pixel, delta, counts):
    cohort, edge = relabel_and_deny(monkeypatch, fill_images(data, pixel))
    move_odd_codes(monkeypatch, delta)
    rows = attack_cohort(cohort, edge, THREAT, SEARCH, generators()).rows
    attacked = by_model(rows, "prediction") == edge.labels
    assert attacked.any()
    assert torch.equal(by_model(rows, "success"), attacked & (counts | ~ODD))


def test_equal_logits_are_no_prediction(data, monkeypatch):
    """A model without preference is wrong for each label, and so is not attacked."""
    cohort = FlatCohort()
    monkeypatch.setattr(cohort, "forward", lambda images: images.flatten(2)[..., :CLASSES] * 0)
    monkeypatch.setattr(cohort, "reference_forward", cohort.forward)
    rows = attack_cohort(cohort, data, THREAT, SEARCH, generators()).rows
    assert (rows["prediction"] == NO_CLASS).all()
    assert (rows["answer"] == NO_CLASS).all()
    assert not rows["success"].any()
    assert not rows["start_correct"].any()


def test_a_tie_in_the_plain_pass_counts_as_wrong(data, monkeypatch):
    cohort = FlatCohort()
    monkeypatch.setattr(cohort, "reference_forward", lambda images: cohort(images) * 0)
    rows = attack_cohort(cohort, data, THREAT, SEARCH, generators()).rows
    assert rows["success"].any()
    assert (rows["answer"] == NO_CLASS).all()


def test_predictions_of_all_models_and_images(cohort):
    """More images than one batch, the last of which is not full."""
    split = in_single_precision(make_tiny_split(2 * evaluation.BATCH_SIZE + 7))
    rows = predict(cohort, split)
    assert torch.equal(by_model(rows, "prediction"), clean_predictions(cohort, split))
    assert rows["seed"].tolist() == [10] * len(split) + [11] * len(split)
    assert rows["example"].tolist() == [*range(len(split))] * MEMBERS
    assert rows["label"].tolist() == split.labels.tolist() * MEMBERS


def test_ties_are_counted_in_the_log(cohort, data, caplog, monkeypatch):
    predict(cohort, data)
    assert not caplog.records
    monkeypatch.setattr(cohort, "forward", lambda images: images.flatten(2)[..., :CLASSES].ceil())
    predict(cohort, replace(data, bank=data.bank.clone().index_fill_(0, torch.tensor(0), 0)))
    assert [record.getMessage() for record in caplog.records] == [
        f"{MEMBERS * EXAMPLES} of {MEMBERS * EXAMPLES} predictions count as wrong: "
        "their highest logits are equal"
    ]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_predictions_that_are_not_finite_mean_that_training_diverged(cohort, data, value):
    cohort.output[1, :, 2] = value
    with pytest.raises(
        UserError,
        match=r"^training diverged: logits are not finite; set a lower classifier\.learning_rate$",
    ):
        predict(cohort, data)


def test_a_loss_that_is_not_finite_ends_the_attack(data, monkeypatch):
    """Only where an example was attacked: those that are skipped have no loss."""
    cohort = FlatCohort()
    move_odd_codes(monkeypatch, 0.0)
    claim = evaluation.run_search_from_starts

    def claim_no_loss(*args, skip, **kwargs) -> SearchResult:
        found = claim(*args, skip=skip, **kwargs)
        return found._replace(loss=torch.where(skip, -torch.inf, found.loss))

    monkeypatch.setattr(evaluation, "run_search_from_starts", claim_no_loss)
    attack_cohort(cohort, data, THREAT, SEARCH, generators())

    def claim_one_infinite(*args, skip, **kwargs) -> SearchResult:
        found = claim(*args, skip=skip, **kwargs)
        found.loss[1, -1] = torch.inf
        assert not skip[1, -1]
        return found

    monkeypatch.setattr(evaluation, "run_search_from_starts", claim_one_infinite)
    with pytest.raises(UserError, match=r"a loss is not finite under the threat .*image.*linf"):
        attack_cohort(cohort, data, THREAT, SEARCH, generators())


@pytest.mark.parametrize("restarts", [1, 2])
def test_results_do_not_depend_on_how_many_batches_are_attacked_at_once(
    cohort, monkeypatch, restarts
):
    """A GPU attacks several batches at once, from the starts of one after another."""
    split = in_single_precision(make_tiny_split(2 * evaluation.BATCH_SIZE + 30))
    search = replace(SEARCH, restarts=restarts)

    def run():
        return attack_cohort(cohort, split, THREAT, search, generators())

    one_by_one = run()
    monkeypatch.setattr(evaluation, "choose_batch_size", lambda *_: 3 * evaluation.BATCH_SIZE)
    together = run()
    torch.testing.assert_close(together.codes, one_by_one.codes)
    for column in ("success", "iterations", "restart"):
        assert np.ma.allequal(together.rows[column], one_by_one.rows[column])


@pytest.mark.parametrize(
    ("side", "restarts", "expected"), [(28, 1, 2000), (28, 5, 2000), (256, 1, 700), (256, 20, 100)]
)
def test_large_images_are_attacked_in_fewer_batches_on_a_gpu(side, restarts, expected):
    rows = torch.zeros(3, dtype=torch.int64, device="meta")  # no CPU, and so as on a GPU
    bank = torch.empty(1, 1, side, side, device="meta")
    split = Split(bank, rows, rows, None, (rows, rows), ("a", "b"))
    cohort = make_cohort([0], (1, 28, 28), classes=2)
    assert evaluation.choose_batch_size(cohort, split, restarts) == expected


def test_the_members_of_a_trained_cohort_agree_with_the_table(trained, test_images):
    """With the real network: each recorded success fools the member as a module of its own."""
    for name in SPACES:
        threat, data = Threat(name, "linf", 0.2), test_images.take(slice(60))
        rng = [torch.Generator().manual_seed(seed) for seed in range(3)]
        result = attack_cohort(trained, data, threat, SearchConfig("adam", 0.02, 10), rng)
        success = torch.from_numpy(result.rows["success"]).view(3, -1)
        right = torch.from_numpy(result.rows["prediction"] == result.rows["label"]).view(3, -1)
        assert success.any()
        for i in range(3):
            member = trained.member(i)
            assert torch.equal(member(data.images()).argmax(-1) == data.labels, right[i])
            fooled = member(result.images[i]).argmax(-1) != data.labels
            assert fooled[success[i]].all()
        assert (result.rows["code_linf"] <= 0.2 * (1 + 1e-5)).all()
        assert result.images.min() >= 0
        assert result.images.max() <= 1 + 1e-6
