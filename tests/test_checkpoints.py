"""That training goes on where it was killed, and with nothing that is not its own."""

import filecmp
import json
import logging
import math
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import RECIPE, make_split, vaegan

from robustgen.io.checkpoints import (
    Checkpoint,
    identity_hash,
    job_identity,
    load_state_tensors,
    state_tensors,
)
from robustgen.io.tensors import save_tensors
from robustgen.seeding import generator
from robustgen.specs import VaeGanConfig
from robustgen.training import vaegan as module
from robustgen.training.vaegan import train_vaegan, train_vaegan_once

OF = {"settings": {"rate": 0.1}, "code": "abc", "inputs": ["12"]}
LONG = replace(RECIPE, epochs=30)


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "class0.checkpoint.safetensors", OF, every=0)


def trained(path: Path, recipe: VaeGanConfig, kept: Checkpoint | None) -> dict[str, list]:
    """Curves; the model is saved at `path`."""
    model = vaegan("one", recipe)
    data = make_split("train").take(slice(60))
    curves = train_vaegan(model, data, generator(0, "training"), kept)
    model.save(path, {}, {})
    return curves


@pytest.fixture(scope="module", params=[1.0, 0.0], ids=["VAE-GAN", "VAE"])
def undisturbed(request, tmp_path_factory):
    recipe = replace(RECIPE, epochs=4, gamma=request.param)
    path = tmp_path_factory.mktemp("undisturbed") / "class0.safetensors"
    return recipe, path, trained(path, recipe, None)


@pytest.mark.parametrize("updates", [(0,), (2,), (3,), (7,), (4, 4), (11,), (3, 3, 3)])
def test_an_interrupted_training_ends_in_the_same_bytes(
    undisturbed, updates, tmp_path, monkeypatch
):
    """Of three updates an epoch: it is stopped before its first checkpoint, in epochs and twice."""
    recipe, path, curves = undisturbed
    update = module._update
    for allowed in updates:
        left = iter(range(allowed))

        def some(*args, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            return update(*args)

        monkeypatch.setattr(module, "_update", some)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "none", recipe, checkpoint(tmp_path))
    monkeypatch.setattr(module, "_update", update)
    again = trained(tmp_path / "class0.safetensors", recipe, checkpoint(tmp_path))
    assert again == curves
    assert filecmp.cmp(path, tmp_path / "class0.safetensors", shallow=False)


def test_a_finished_training_need_not_be_repeated(undisturbed, tmp_path, monkeypatch):
    """It was killed after its last epoch, before its outputs were written."""
    recipe, path, curves = undisturbed
    trained(tmp_path / "first", recipe, checkpoint(tmp_path))
    monkeypatch.setattr(module, "_update", None)
    assert trained(tmp_path / "again", recipe, checkpoint(tmp_path)) == curves
    assert filecmp.cmp(path, tmp_path / "again", shallow=False)


def test_a_killed_process_is_gone_on_with(tmp_path, caplog):
    command = (
        "import sys, pathlib, test_checkpoints as t; from robustgen import device; device.setup();"
        "folder = pathlib.Path(sys.argv[1]);"
        "t.trained(folder / 'none', t.LONG, t.checkpoint(folder))"
    )
    kept = checkpoint(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", command, tmp_path], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 120
    while not kept.path.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with caplog.at_level(logging.INFO, "robustgen"):
        curves = trained(tmp_path / "killed", LONG, kept)
    assert "resuming after epoch" in caplog.text
    assert trained(tmp_path / "whole", LONG, None) == curves
    assert filecmp.cmp(tmp_path / "killed", tmp_path / "whole", shallow=False)


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, 1, 2, 2)}
ABOUT = {"z": [0.1 + 0.2, 1e-320, -0.0, math.inf], "a": [None, 3]}


def test_what_is_written_is_read(tmp_path):
    checkpoint(tmp_path).write(TENSORS, ABOUT)
    tensors, about = checkpoint(tmp_path).read()
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert json.dumps(about) == json.dumps(ABOUT)  # the order and -0.0 as well
    checkpoint(tmp_path).write(TENSORS, {"at": math.nan})
    assert math.isnan(checkpoint(tmp_path).read()[1]["at"])


def test_it_is_gone_when_removed(tmp_path):
    kept = checkpoint(tmp_path)
    kept.remove()  # there need not be one
    kept.write(TENSORS, ABOUT)
    kept.remove()
    assert kept.read() is None
    assert list(tmp_path.iterdir()) == []


def test_it_is_written_no_more_often_than_asked(tmp_path, monkeypatch):
    now = 100.0
    monkeypatch.setattr("robustgen.io.checkpoints.monotonic", lambda: now)
    kept = Checkpoint(tmp_path / "a.safetensors", OF, every=60)
    written = []
    for now in (100.0, 159.0, 160.0, 170.0, 219.0, 221.0, 280.0, 281.5):
        kept.write({}, {"at": now})
        written.append(kept.read()[1]["at"] if kept.path.exists() else None)
    assert written == [None, None, 160, 160, 160, 221, 221, 281.5]


OTHERS = {
    "settings": {**OF, "settings": {"rate": 0.2}},
    "code": {**OF, "code": "abd"},
    "inputs": {**OF, "inputs": ["13"]},
    "order of inputs": {**OF, "inputs": ["12", "12"]},
    "a part more": {**OF, "torch": "2"},
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
def test_a_checkpoint_of_something_else_is_ignored_and_replaced(other, tmp_path, caplog):
    checkpoint(tmp_path).write(TENSORS, ABOUT)
    kept = Checkpoint(checkpoint(tmp_path).path, other, every=0)
    assert kept.read() is None
    assert "is of other settings, code or inputs" in caplog.text
    kept.write({}, {"new": 1})
    assert kept.read() == ({}, {"new": 1})


def test_every_part_of_an_identity_counts():
    inputs = [torch.arange(6.0), torch.ones(2, dtype=torch.uint8)]
    given = {
        "settings": {"a": 1},
        "code": "c",
        "inputs": inputs,
        "device": torch.device("cpu"),
        "backend": "plain",
    }
    first = job_identity(**given)
    assert job_identity(**given) == first
    changes = {
        "settings": {"a": 2},
        "code": "d",
        "inputs": inputs[::-1],
        "device": "cuda",
        "backend": "accelerated",
    }
    for name, value in changes.items():
        other = job_identity(**{**given, name: value})
        assert other != first
        assert identity_hash(other) != identity_hash(first)
    for shape in ((2, 3), (3, 2)):
        assert job_identity(**{**given, "inputs": [inputs[0].view(shape), inputs[1]]}) != first
    inputs[1][0] = 7
    assert job_identity(**given) != first
    assert first["torch"] == torch.__version__


def test_what_was_trained_before_is_found_again(tmp_path, caplog):
    """A model of the same images, settings and code is not trained twice; another one is."""
    data = make_split("train").take(slice(60))
    paths = [tmp_path / name for name in ("first", "again", "other")]
    for path, seen in zip(paths, (data, data, data.take(slice(40))), strict=True):
        model = vaegan("one")
        of = job_identity({}, "code", [seen.images()], torch.device("cpu"), "plain")
        finished = Checkpoint(tmp_path / "trained" / identity_hash(of), of, every=0)
        rng = generator(0, "training")
        caplog.clear()
        with caplog.at_level("INFO", logger="robustgen"):
            curves = train_vaegan_once(
                model, seen, rng, Checkpoint(tmp_path / "going", of), finished
            )
        assert ("trained before" in caplog.text) == (path.name == "again")
        assert len(curves["epoch"]) == model.config.epochs
        assert not model.training
        model.save(path, {"curves": curves}, {})
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_a_damaged_checkpoint_is_ignored(tmp_path, caplog):
    """Cut anywhere, or with a bit of any byte flipped: in sizes, header or tensors."""
    kept = checkpoint(tmp_path)
    kept.write(TENSORS, ABOUT)
    whole = kept.path.read_bytes()
    for length in range(0, len(whole), 7):
        kept.path.write_bytes(whole[:length])
        assert kept.read() is None, length
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        kept.path.write_bytes(flipped)
        assert kept.read() is None, place
    save_tensors(kept.path, TENSORS, {})
    assert kept.read() is None
    kept.path.write_bytes(b"")
    assert kept.read() is None
    assert not any(record.exc_info for record in caplog.records)
    assert all(record.message.startswith("checkpoint ignored") for record in caplog.records)
    kept.write(TENSORS, ABOUT)
    assert kept.path.read_bytes() == whole


def test_a_folder_in_its_place_is_ignored(tmp_path):
    kept = checkpoint(tmp_path)
    kept.path.mkdir()
    assert kept.read() is None


def test_state_of_several_optimizers_and_generators_comes_back():
    """Also the layout of what Adam keeps, in which the undisturbed run has it."""

    def started():
        layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 2, 3)]
        for layer in layers:
            layer.weight.data = layer.weight.data.clone(memory_format=torch.channels_last)
        model = torch.nn.Sequential(*layers)
        return model, [torch.optim.Adam(layer.parameters(), 0.1) for layer in layers]

    def step(model, optimizers, rngs):
        x = torch.randn(2, 1, 7, 7, generator=rngs[0]) + torch.rand(1, generator=rngs[1])
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()

    model, optimizers = started()
    rngs = [generator(0, "draws", i) for i in range(2)]
    for _ in range(3):
        step(model, optimizers, rngs)
    held = state_tensors(model.state_dict(), optimizers, rngs)
    held = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in held.items()
    }
    other, others = started()
    fresh = [generator(1, "draws", i) for i in range(2)]
    load_state_tensors(held, other.state_dict(), others, fresh)
    for one, two in zip(optimizers, others, strict=True):
        for p, q in zip(one.param_groups[0]["params"], two.param_groups[0]["params"], strict=True):
            assert one.state[p].keys() == two.state[q].keys()
            for key in one.state[p]:
                assert torch.equal(one.state[p][key], two.state[q][key])
                assert one.state[p][key].stride() == two.state[q][key].stride()
    step(model, optimizers, rngs)
    step(other, others, fresh)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
