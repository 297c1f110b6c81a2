"""The evaluation of attacks: which examples are successes, and the content of table and images."""

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

from robustgen.attacks.search import SearchResult, ascend, run_search_from_starts
from robustgen.attacks.spaces import SPACES
from robustgen.data.split import Split
from robustgen.errors import UserError
from robustgen.evaluation import attacks as evaluation
from robustgen.evaluation.attacks import attack_cohort, predict
from robustgen.models.cohort import NO_CLASS
from robustgen.sampling import sample_unit_ball
from robustgen.specs import SearchConfig, Threat

MEMBERS, EXAMPLES, WRONG = 2, 30, 4
"""Number of models, of images, and of images that every model misclassifies."""
THREAT, SEARCH = Threat("image", "linf", 0.25), SearchConfig("signed", 0.1, steps=4, restarts=2)
SPACES_WITH_RADIUS = {"image": 0.25, "true_manifold": 0.4, "learned_manifold": 1.0}


class FlatCohort(TinyCohort):
    """Models in single precision that agree on most images, so that one label suits all models."""

    def __init__(self, members: int = MEMBERS) -> None:
        super().__init__(members)
        self.hidden, self.output = self.hidden.float(), self.output.float()
        self.hidden = self.hidden[:1] + 0.2 * (self.hidden - self.hidden[:1])
        self.output = self.output[:1] + 0.2 * (self.output - self.output[:1])


class LyingCohort(FlatCohort):
    """Models whose reference forward pass predicts the label, unlike their forward pass."""

    def __init__(self, labels: Tensor, is_denied: Tensor) -> None:
        super().__init__()
        self.labels, self.is_denied = labels, is_denied

    def reference_forward(self, images: Tensor) -> Tensor:
        """Return logits that predict the label where `is_denied` `(B,)`, elsewhere true logits."""
        one_hot = 5 * F.one_hot(self.labels, CLASSES).float().expand(len(images), -1, -1)
        return torch.where(self.is_denied[:, None], one_hot, self(images))


@pytest.fixture
def cohort() -> FlatCohort:
    return FlatCohort()


@pytest.fixture
def data(cohort: FlatCohort) -> Split:
    """Images with the predictions of the first model as labels, except for the first `WRONG`."""
    split = in_single_precision(make_tiny_split(EXAMPLES))
    with torch.no_grad():
        labels = cohort(split.images()[None].expand(MEMBERS, -1, -1, -1, -1)).argmax(-1)[0]
    labels[:WRONG] = (labels[:WRONG] + 1) % CLASSES
    return replace(split, labels=labels)


def make_generators(members: int = MEMBERS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(members)]


def get_column(rows, column: str) -> Tensor:
    """Return a column of a table as `(M, B)`, with -1 where it is masked."""
    values = np.ma.filled(rows[column], -1) if np.ma.isMA(rows[column]) else rows[column]
    return torch.from_numpy(np.array(values)).view(MEMBERS, -1)


def predict_clean(cohort: TinyCohort, data: Split) -> Tensor:
    """Return the predictions `(M, B)` of all models on the clean images."""
    images = data.images().expand(MEMBERS, len(data), *SHAPE)
    return cohort(images).argmax(-1)


@pytest.mark.parametrize(("space", "radius"), SPACES_WITH_RADIUS.items())
def test_table_and_examples_equal_the_result_of_the_search(cohort, data, space, radius):
    threat = Threat(space, "linf", radius)
    result = attack_cohort(cohort, data, threat, SEARCH, make_generators())
    batch = data.expand(MEMBERS)
    space = SPACES[space](batch)
    is_correct = predict_clean(cohort, data) == data.labels
    generators = make_generators()
    noise = [
        sample_unit_ball("linf", space.clean_codes.shape[1:], generators)
        for _ in range(SEARCH.restarts)
    ]
    expected = run_search_from_starts(
        cohort, space, batch.labels, threat, SEARCH, noise, stop_at_success=True, skip=~is_correct
    )
    images = torch.where(
        is_correct[:, :, None, None, None], space.decode(expected.codes), batch.images()
    )
    assert torch.equal(result.codes, expected.codes)
    torch.testing.assert_close(result.images, images, atol=0, rtol=0)
    rows = result.rows
    assert (~is_correct).sum() >= MEMBERS * WRONG
    assert expected.success.any()
    assert (is_correct & ~expected.success).any()
    for column in ("success", "iterations", "restart"):
        assert torch.equal(get_column(rows, column), getattr(expected, column)), column
    assert torch.equal(get_column(rows, "prediction"), predict_clean(cohort, data))
    logits = cohort(images)
    assert torch.equal(get_column(rows, "adversarial_prediction"), logits.argmax(-1))
    loss = F.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="none")
    torch.testing.assert_close(get_column(rows, "loss").flatten(), loss)
    is_code_correct = cohort(space.decode(space.clean_codes)).argmax(-1) == batch.labels
    assert torch.equal(get_column(rows, "code_correct"), is_code_correct)
    for name, delta in (
        ("image", images - batch.images()),
        ("code", expected.codes - space.clean_codes),
    ):
        delta = delta.flatten(2)
        torch.testing.assert_close(get_column(rows, f"{name}_l1"), delta.abs().sum(2))
        torch.testing.assert_close(get_column(rows, f"{name}_l2"), delta.square().sum(2).sqrt())
        torch.testing.assert_close(get_column(rows, f"{name}_linf"), delta.abs().amax(2))


def test_an_attack_searches_with_the_backend_of_the_cohort(cohort, data):
    restarts = []

    def count_and_ascend(*arguments):
        restarts.append(arguments)
        ascend(*arguments)

    expected = attack_cohort(cohort, data, THREAT, SEARCH, make_generators())
    cohort.backend = replace(cohort.backend, ascend=count_and_ascend)
    result = attack_cohort(cohort, data, THREAT, SEARCH, make_generators())
    assert len(restarts) == SEARCH.restarts
    assert torch.equal(result.codes, expected.codes)


def test_rows_are_in_order_of_models_and_then_of_examples(cohort, data):
    rows = attack_cohort(cohort, data, THREAT, SEARCH, make_generators()).rows
    assert rows["seed"].tolist() == [10] * EXAMPLES + [11] * EXAMPLES
    assert rows["example"].tolist() == [*range(EXAMPLES)] * MEMBERS
    assert rows["label"].tolist() == data.labels.tolist() * MEMBERS


def test_images_that_a_model_misclassifies_are_saved_unchanged(cohort, data):
    """This holds for each model alone and on a learned manifold, where decoding changes images."""
    threat = Threat("learned_manifold", "linf", 1.0)
    result = attack_cohort(cohort, data, threat, SEARCH, make_generators())
    is_wrong = predict_clean(cohort, data) != data.labels
    assert not torch.equal(is_wrong[0], is_wrong[1])
    images = data.images().expand(MEMBERS, *data.images().shape)
    assert torch.equal(result.images[is_wrong], images[is_wrong])
    codes = data.learned["learned_manifold"].codes.clamp(-2, 2).expand(MEMBERS, -1, -1)
    assert torch.equal(result.codes[is_wrong], codes[is_wrong])
    assert not get_column(result.rows, "success")[is_wrong].any()
    for column in ("image_l1", "image_l2", "image_linf", "code_l1", "code_l2", "code_linf"):
        assert (get_column(result.rows, column)[is_wrong] == 0).all()
    norms = (result.images[~is_wrong] - images[~is_wrong]).flatten(1).norm(dim=1)
    assert (norms > 0).all()


def test_code_correct_is_false_where_decoding_changes_the_prediction(cohort, data):
    """`code_correct` is about the decoded clean code, `prediction` about the clean image."""
    threat = Threat("learned_manifold", "linf", 1.0)
    rows = attack_cohort(cohort, data, threat, SEARCH, make_generators()).rows
    is_correct = get_column(rows, "prediction") == data.labels
    is_code_correct = get_column(rows, "code_correct")
    assert (is_correct & ~is_code_correct).any()
    assert (is_correct & is_code_correct).any()
    image_rows = attack_cohort(cohort, data, THREAT, SEARCH, make_generators()).rows
    assert torch.equal(get_column(image_rows, "code_correct"), is_correct)


def test_a_success_that_the_reference_models_deny_is_refuted(data, caplog):
    """The forward pass of the search is the usual one; only the reference forward pass denies."""
    is_denied = torch.arange(EXAMPLES) % 2 == 0
    lying_cohort = LyingCohort(data.labels, is_denied)
    caplog.set_level("INFO")
    honest_rows = attack_cohort(FlatCohort(), data, THREAT, SEARCH, make_generators()).rows
    lying_rows = attack_cohort(lying_cohort, data, THREAT, SEARCH, make_generators()).rows
    claimed = get_column(honest_rows, "success")
    refuted, confirmed = claimed & is_denied, claimed & ~is_denied
    assert refuted.any()
    assert confirmed.any()
    assert torch.equal(get_column(lying_rows, "success"), confirmed)
    for column in ("iterations", "restart"):
        assert lying_rows[column].mask.reshape(MEMBERS, -1)[refuted.numpy()].all()
        expected = get_column(honest_rows, column)[confirmed]
        assert torch.equal(get_column(lying_rows, column)[confirmed], expected)
    assert torch.equal(
        get_column(lying_rows, "adversarial_prediction")[refuted],
        data.labels.expand(2, -1)[refuted],
    )
    messages = [
        record.getMessage() for record in caplog.records if "did not confirm" in record.message
    ]
    assert messages == [
        f"{int(claimed.sum())} successes, and 0 more that the plain model did not confirm",
        f"{int(confirmed.sum())} successes, and {int(refuted.sum())} more that the plain model did "
        "not confirm",
    ]


def fill_images(split: Split, pixel: float) -> Split:
    """Return the split with images whose pixels all have the value `pixel`."""
    return replace(split, source_images=torch.full_like(split.source_images, pixel), codes=None)


IS_ODD = torch.arange(EXAMPLES) % 2 == 1


def move_odd_codes(monkeypatch, delta: float) -> None:
    """Let the search claim a success for each image, with `delta` added to codes of odd index."""

    def claim_success(*args, skip, **_) -> SearchResult:
        space = args[1]
        success = ~skip
        is_moved = (success & IS_ODD)[:, :, None, None, None]
        codes = torch.where(is_moved, space.clean_codes + delta, space.clean_codes)
        first = success.long() - 1  # step 0 of restart 0; -1 without success
        return SearchResult(codes, torch.ones_like(codes[:, :, 0, 0, 0]), success, first, first)

    monkeypatch.setattr(evaluation, "run_search_from_starts", claim_success)


def make_fooled_cohort(monkeypatch, split: Split) -> tuple[FlatCohort, Split]:
    """Return a cohort and the split with labels for which the cohort confirms every success.

    The labels are the predictions of the forward pass, so that every image is attacked. The
    reference forward pass predicts another class.
    """
    cohort = FlatCohort()
    with torch.no_grad():
        label = cohort(split.images()[:1].expand(MEMBERS, -1, -1, -1, -1)).argmax(-1)[0]
    logits = 5 * F.one_hot((label + 1) % CLASSES, CLASSES).float()
    monkeypatch.setattr(cohort, "reference_forward", lambda images: cohort(images) * 0 + logits)
    return cohort, replace(split, labels=label.expand(EXAMPLES).clone())


@pytest.mark.parametrize(
    ("norm", "radius", "delta", "is_confirmed"),
    [
        ("linf", 0.25, 0.25, True),
        ("linf", 0.25, 0.25 + 1e-6, True),  # rounding
        ("linf", 0.25, 0.25 + 1e-5, False),
        ("linf", 0.25, -0.25 - 1e-5, False),
        ("l2", 0.5, 0.5 / 6**0.5, True),
        ("l2", 0.5, 0.5 / 6**0.5 + 1e-5, False),
        ("l2", 0.25, 0.2, False),
        ("linf", 1e-3, 1e-3 + 5e-7, True),  # the relative slack of a small radius is below rounding
        ("linf", 1e-3, 1e-3 + 2e-6, False),
    ],
)
def test_a_success_out_of_the_ball_is_refuted(monkeypatch, data, norm, radius, delta, is_confirmed):
    """The reference models misclassify every example, so that only the ball can refute one."""
    cohort, grey = make_fooled_cohort(monkeypatch, fill_images(data, 0.4))
    move_odd_codes(monkeypatch, delta)
    rows = attack_cohort(
        cohort, grey, Threat("image", norm, radius), SEARCH, make_generators()
    ).rows
    is_attacked = get_column(rows, "prediction") == grey.labels
    assert is_attacked.any()
    assert torch.equal(get_column(rows, "success"), is_attacked & (is_confirmed | ~IS_ODD))


@pytest.mark.parametrize(
    ("pixel", "delta", "is_confirmed"),
    [
        (1.0, 0.0, True),
        (1.0, 5e-6, True),
        (1.0, 1e-4, False),
        (0.0, -5e-6, True),
        (0.0, -1e-4, False),
    ],
)
def test_a_success_out_of_bounds_is_refuted(monkeypatch, data, pixel, delta, is_confirmed):
    cohort, uniform = make_fooled_cohort(monkeypatch, fill_images(data, pixel))
    move_odd_codes(monkeypatch, delta)
    rows = attack_cohort(cohort, uniform, THREAT, SEARCH, make_generators()).rows
    is_attacked = get_column(rows, "prediction") == uniform.labels
    assert is_attacked.any()
    assert torch.equal(get_column(rows, "success"), is_attacked & (is_confirmed | ~IS_ODD))


def test_equal_logits_are_no_prediction(data, monkeypatch):
    """A model whose logits are equal misclassifies every image and is not attacked."""
    cohort = FlatCohort()
    monkeypatch.setattr(cohort, "forward", lambda images: images.flatten(2)[..., :CLASSES] * 0)
    monkeypatch.setattr(cohort, "reference_forward", cohort.forward)
    rows = attack_cohort(cohort, data, THREAT, SEARCH, make_generators()).rows
    assert (rows["prediction"] == NO_CLASS).all()
    assert (rows["adversarial_prediction"] == NO_CLASS).all()
    assert not rows["success"].any()
    assert not rows["code_correct"].any()


def test_equal_logits_of_the_reference_forward_pass_count_as_wrong(data, monkeypatch):
    cohort = FlatCohort()
    monkeypatch.setattr(cohort, "reference_forward", lambda images: cohort(images) * 0)
    rows = attack_cohort(cohort, data, THREAT, SEARCH, make_generators()).rows
    assert rows["success"].any()
    assert (rows["adversarial_prediction"] == NO_CLASS).all()


def test_predictions_of_all_models_and_images(cohort):
    """The images fill two batches and a part of a third one."""
    split = in_single_precision(make_tiny_split(2 * evaluation.BATCH_SIZE + 7))
    rows = predict(cohort, split)
    assert torch.equal(get_column(rows, "prediction"), predict_clean(cohort, split))
    assert rows["seed"].tolist() == [10] * len(split) + [11] * len(split)
    assert rows["example"].tolist() == [*range(len(split))] * MEMBERS
    assert rows["label"].tolist() == split.labels.tolist() * MEMBERS


def test_ties_are_counted_in_the_log(cohort, data, caplog, monkeypatch):
    predict(cohort, data)
    assert not caplog.records
    monkeypatch.setattr(cohort, "forward", lambda images: images.flatten(2)[..., :CLASSES].ceil())
    predict(
        cohort,
        replace(data, source_images=data.source_images.clone().index_fill_(0, torch.tensor(0), 0)),
    )
    assert [record.getMessage() for record in caplog.records] == [
        f"{MEMBERS * EXAMPLES} of {MEMBERS * EXAMPLES} predictions count as wrong: "
        "their highest logits are equal"
    ]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_logits_that_are_not_finite_mean_that_training_diverged(cohort, data, value):
    cohort.output[1, :, 2] = value
    with pytest.raises(
        UserError,
        match=r"^training diverged: logits are not finite; set a lower classifier\.learning_rate$",
    ):
        predict(cohort, data)


def test_a_loss_that_is_not_finite_ends_the_attack(data, monkeypatch):
    """A skipped example may have a loss of -inf; the loss of an attacked one must be finite."""
    cohort = FlatCohort()
    move_odd_codes(monkeypatch, 0.0)
    claim_success = evaluation.run_search_from_starts

    def skip_loss(*args, skip, **kwargs) -> SearchResult:
        result = claim_success(*args, skip=skip, **kwargs)
        return result._replace(loss=torch.where(skip, -torch.inf, result.loss))

    monkeypatch.setattr(evaluation, "run_search_from_starts", skip_loss)
    attack_cohort(cohort, data, THREAT, SEARCH, make_generators())

    def return_infinite_loss(*args, skip, **kwargs) -> SearchResult:
        result = claim_success(*args, skip=skip, **kwargs)
        result.loss[1, -1] = torch.inf
        assert not skip[1, -1]
        return result

    monkeypatch.setattr(evaluation, "run_search_from_starts", return_infinite_loss)
    with pytest.raises(UserError, match=r"the loss of the attack is not finite .*image.*linf"):
        attack_cohort(cohort, data, THREAT, SEARCH, make_generators())


JOINT_SEARCHES = {
    "one restart": SEARCH,
    "two restarts": replace(SEARCH, restarts=2),
    "an ensemble": {
        "first": replace(SEARCH, restarts=2),
        "second": replace(SEARCH, loss="margin"),
    },
}


@pytest.mark.parametrize("search", JOINT_SEARCHES.values(), ids=JOINT_SEARCHES)
def test_results_do_not_depend_on_the_number_of_batches_attacked_together(
    cohort, monkeypatch, search
):
    """Several batches are attacked together from the starts that each draws in turn."""
    split = in_single_precision(make_tiny_split(2 * evaluation.BATCH_SIZE + 30))
    results = []
    for max_batches in (1, 3):
        monkeypatch.setitem(evaluation.MAX_BATCHES, "cpu", max_batches)
        results.append(attack_cohort(cohort, split, THREAT, search, make_generators()))
    single_batches, joint_batches = results
    torch.testing.assert_close(joint_batches.codes, single_batches.codes)
    for column in ("success", "iterations", "restart"):
        assert np.ma.allequal(joint_batches.rows[column], single_batches.rows[column])


BATCH_SIZES = {  # side of the images, restarts, type of device
    "small images": ((28, 1, "meta"), 2000),
    "small images, on a CPU": ((28, 1, "cpu"), 500),
    "an ensemble": ((28, 25, "meta"), 2000),
    "large images": ((256, 1, "meta"), 700),
    "large images, on a CPU": ((128, 1, "cpu"), 300),
    "large images, many restarts": ((256, 20, "meta"), 100),
    "very large images, on a CPU": ((512, 20, "cpu"), 100),
}


@pytest.mark.parametrize(("case", "expected"), BATCH_SIZES.values(), ids=BATCH_SIZES)
def test_larger_images_are_attacked_in_fewer_batches(case, expected):
    side, restarts, device_type = case  # the type "meta" stands for a GPU
    rows = torch.zeros(3, dtype=torch.int64, device=device_type)
    source_images = torch.empty(1, 1, side, side, device=device_type)
    split = Split(source_images, rows, rows, None, (rows, rows), ("a", "b"))
    cohort = make_cohort([0], (1, 28, 28), classes=2)
    assert evaluation.choose_batch_size(cohort, split, restarts) == expected


def test_the_models_of_a_trained_cohort_agree_with_the_table(trained, test_images):
    """The single model, as a plain module, misclassifies the image of every recorded success."""
    for name in SPACES:
        threat, data = Threat(name, "linf", 0.2), test_images.select(slice(60))
        search = SearchConfig("adam", 0.02, 10)
        result = attack_cohort(trained, data, threat, search, make_generators(3))
        rows, images = result.rows, result.images
        success = torch.from_numpy(rows["success"]).view(3, -1)
        is_correct = torch.from_numpy(rows["prediction"] == rows["label"]).view(3, -1)
        assert success.any()
        for i in range(3):
            model = trained.member(i)
            assert torch.equal(model(data.images()).argmax(-1) == data.labels, is_correct[i])
            is_wrong = model(images[i]).argmax(-1) != data.labels
            assert is_wrong[success[i]].all()
        assert (rows["code_linf"] <= 0.2 * (1 + 1e-5)).all()
        assert images.min() >= 0
        assert images.max() <= 1 + 1e-6
