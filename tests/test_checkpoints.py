"""Checkpoints: killed training resumes, and ignores checkpoints that are not its own."""

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

from robustgen.io.checkpoints import Checkpoint, identity_hash, job_identity
from robustgen.io.tensors import save_tensors
from robustgen.sampling import make_generator
from robustgen.specs import VaeGanConfig
from robustgen.training import vaegan as module
from robustgen.training.resumable import load_state_tensors, state_tensors
from robustgen.training.vaegan import train_vaegan, train_vaegan_once

IDENTITY = {"settings": {"lr": 0.1}, "code": "abc", "inputs": ["12"]}
LONG = replace(RECIPE, epochs=30)


def make_checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(folder / "class0.checkpoint.safetensors", IDENTITY, interval_s=0)


def train_and_save(
    path: Path, config: VaeGanConfig, checkpoint: Checkpoint | None
) -> dict[str, list]:
    """Train a VAE-GAN, save it at `path`, and return its learning curves."""
    model = vaegan("one", config)
    data = make_split("train").select(slice(60))
    curves = train_vaegan(model, data, make_generator(0, "training"), checkpoint)
    model.save(path, {}, {})
    return curves


@pytest.fixture(scope="module", params=[1.0, 0.0], ids=["VAE-GAN", "VAE"])
def undisturbed(request, tmp_path_factory):
    config = replace(RECIPE, epochs=4, gamma=request.param)
    path = tmp_path_factory.mktemp("undisturbed") / "class0.safetensors"
    return config, path, train_and_save(path, config, None)


@pytest.mark.parametrize("updates", [(0,), (2,), (3,), (7,), (4, 4), (11,), (3, 3, 3)])
def test_interrupted_training_ends_with_the_same_bytes(undisturbed, updates, tmp_path, monkeypatch):
    """Each epoch has three updates. Training stops before a checkpoint, in an epoch, or twice."""
    config, path, curves = undisturbed
    update = module._update
    for allowed_count in updates:
        allowed_updates = iter(range(allowed_count))

        def update_or_interrupt(*args, allowed_updates=allowed_updates):
            if next(allowed_updates, None) is None:
                raise KeyboardInterrupt
            return update(*args)

        monkeypatch.setattr(module, "_update", update_or_interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_and_save(tmp_path / "none", config, make_checkpoint(tmp_path))
    monkeypatch.setattr(module, "_update", update)
    resumed = train_and_save(tmp_path / "class0.safetensors", config, make_checkpoint(tmp_path))
    assert resumed == curves
    assert filecmp.cmp(path, tmp_path / "class0.safetensors", shallow=False)


def test_finished_training_is_not_repeated(undisturbed, tmp_path, monkeypatch):
    """The job was killed after the last epoch, before its outputs were written."""
    config, path, curves = undisturbed
    train_and_save(tmp_path / "first", config, make_checkpoint(tmp_path))
    monkeypatch.setattr(module, "_update", None)
    assert train_and_save(tmp_path / "again", config, make_checkpoint(tmp_path)) == curves
    assert filecmp.cmp(path, tmp_path / "again", shallow=False)


@pytest.mark.slow
def test_a_killed_process_is_resumed(tmp_path, caplog):
    command = (
        "import sys, pathlib, test_checkpoints as t; from robustgen import device; device.setup();"
        "folder = pathlib.Path(sys.argv[1]);"
        "t.train_and_save(folder / 'none', t.LONG, t.make_checkpoint(folder))"
    )
    checkpoint = make_checkpoint(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", command, tmp_path], cwd=Path(__file__).parent)
    deadline = time.monotonic() + 120
    while not checkpoint.path.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    with caplog.at_level(logging.INFO, "robustgen"):
        curves = train_and_save(tmp_path / "killed", LONG, checkpoint)
    assert "resuming after epoch" in caplog.text
    assert train_and_save(tmp_path / "undisturbed", LONG, None) == curves
    assert filecmp.cmp(tmp_path / "killed", tmp_path / "undisturbed", shallow=False)


TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3), "c": torch.ones(2, 1, 2, 2)}
METADATA = {"z": [0.1 + 0.2, 1e-320, -0.0, math.inf], "a": [None, 3]}


def test_tensors_and_metadata_are_read_as_they_were_written(tmp_path):
    make_checkpoint(tmp_path).write(TENSORS, METADATA)
    tensors, metadata = make_checkpoint(tmp_path).read()
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert json.dumps(metadata) == json.dumps(METADATA)  # compares also the order and -0.0
    make_checkpoint(tmp_path).write(TENSORS, {"loss": math.nan})
    assert math.isnan(make_checkpoint(tmp_path).read()[1]["loss"])


def test_a_removed_checkpoint_leaves_no_files(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    checkpoint.remove()  # works also without a file
    checkpoint.write(TENSORS, METADATA)
    checkpoint.remove()
    assert checkpoint.read() is None
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_written_once_per_interval(tmp_path, monkeypatch):
    clock = 100.0
    monkeypatch.setattr("robustgen.io.checkpoints.monotonic", lambda: clock)
    checkpoint = Checkpoint(tmp_path / "a.safetensors", IDENTITY, interval_s=60)
    write_times = []
    for clock in (100.0, 159.0, 160.0, 170.0, 219.0, 221.0, 280.0, 281.5):
        checkpoint.write({}, {"time": clock})
        write_times.append(checkpoint.read()[1]["time"] if checkpoint.path.exists() else None)
    assert write_times == [None, None, 160, 160, 160, 221, 221, 281.5]


OTHER_IDENTITIES = {
    "settings": {**IDENTITY, "settings": {"lr": 0.2}},
    "code": {**IDENTITY, "code": "abd"},
    "inputs": {**IDENTITY, "inputs": ["13"]},
    "order of inputs": {**IDENTITY, "inputs": ["12", "12"]},
    "a further part": {**IDENTITY, "torch": "2"},
}


@pytest.mark.parametrize("identity", OTHER_IDENTITIES.values(), ids=OTHER_IDENTITIES.keys())
def test_a_checkpoint_of_another_job_is_ignored_and_replaced(identity, tmp_path, caplog):
    make_checkpoint(tmp_path).write(TENSORS, METADATA)
    checkpoint = Checkpoint(make_checkpoint(tmp_path).path, identity, interval_s=0)
    assert checkpoint.read() is None
    assert "belongs to other settings, code or inputs" in caplog.text
    checkpoint.write({}, {"new": 1})
    assert checkpoint.read() == ({}, {"new": 1})


def test_an_identity_changes_with_each_of_its_parts():
    inputs = [torch.arange(6.0), torch.ones(2, dtype=torch.uint8)]
    arguments = {
        "settings": {"a": 1},
        "code": "c",
        "inputs": inputs,
        "device": torch.device("cpu"),
        "backend": "plain",
    }
    first = job_identity(**arguments)
    assert job_identity(**arguments) == first
    changes = {
        "settings": {"a": 2},
        "code": "d",
        "inputs": inputs[::-1],
        "device": "cuda",
        "backend": "accelerated",
    }
    for name, value in changes.items():
        changed = job_identity(**{**arguments, name: value})
        assert changed != first
        assert identity_hash(changed) != identity_hash(first)
    for shape in ((2, 3), (3, 2)):
        assert job_identity(**{**arguments, "inputs": [inputs[0].view(shape), inputs[1]]}) != first
    inputs[1][0] = 7
    assert job_identity(**arguments) != first
    assert first["torch"] == torch.__version__


def test_a_model_is_trained_once_for_the_same_identity(tmp_path, caplog):
    """Equal images, settings and code are trained once; other images are trained again."""
    data = make_split("train").select(slice(60))
    paths = [tmp_path / name for name in ("first", "repeated", "changed")]
    inputs = (data, data, data.select(slice(40)))
    for path, images in zip(paths, inputs, strict=True):
        model = vaegan("one")
        identity = job_identity({}, "code", [images.images()], torch.device("cpu"), "plain")
        finished = Checkpoint(
            tmp_path / "trained" / identity_hash(identity), identity, interval_s=0
        )
        rng = make_generator(0, "training")
        caplog.clear()
        with caplog.at_level("INFO", logger="robustgen"):
            curves = train_vaegan_once(
                model, images, rng, Checkpoint(tmp_path / "unfinished", identity), finished
            )
        assert ("trained before" in caplog.text) == (path.name == "repeated")
        assert len(curves["epoch"]) == model.config.epochs
        assert not model.training
        model.save(path, {"curves": curves}, {})
    first, repeated, changed = (path.read_bytes() for path in paths)
    assert first == repeated
    assert first != changed


def test_a_damaged_checkpoint_is_ignored(tmp_path, caplog):
    """It is truncated, or a bit of any byte is flipped: in sizes, header or tensors."""
    checkpoint = make_checkpoint(tmp_path)
    checkpoint.write(TENSORS, METADATA)
    content = checkpoint.path.read_bytes()
    for length in range(0, len(content), 7):
        checkpoint.path.write_bytes(content[:length])
        assert checkpoint.read() is None, length
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        checkpoint.path.write_bytes(damaged)
        assert checkpoint.read() is None, position
    save_tensors(checkpoint.path, TENSORS, {})
    assert checkpoint.read() is None
    checkpoint.path.write_bytes(b"")
    assert checkpoint.read() is None
    assert not any(record.exc_info for record in caplog.records)
    assert all(
        record.message.startswith("the job starts from the beginning") for record in caplog.records
    )
    checkpoint.write(TENSORS, METADATA)
    assert checkpoint.path.read_bytes() == content


def test_a_folder_at_the_path_of_a_checkpoint_is_ignored(tmp_path):
    checkpoint = make_checkpoint(tmp_path)
    checkpoint.path.mkdir()
    assert checkpoint.read() is None


def test_the_state_of_several_optimizers_and_generators_is_restored():
    """The memory layout of Adam's state is restored as well."""

    def make_model():
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

    model, optimizers = make_model()
    rngs = [make_generator(0, "draws", i) for i in range(2)]
    for _ in range(3):
        step(model, optimizers, rngs)
    saved = state_tensors(model.state_dict(), optimizers, rngs)
    saved = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in saved.items()
    }
    restored, restored_optimizers = make_model()
    restored_rngs = [make_generator(1, "draws", i) for i in range(2)]
    load_state_tensors(saved, restored.state_dict(), restored_optimizers, restored_rngs)
    for optimizer, restored_optimizer in zip(optimizers, restored_optimizers, strict=True):
        params, restored_params = (
            each_optimizer.param_groups[0]["params"]
            for each_optimizer in (optimizer, restored_optimizer)
        )
        for param, restored_param in zip(params, restored_params, strict=True):
            state, restored_state = optimizer.state[param], restored_optimizer.state[restored_param]
            assert state.keys() == restored_state.keys()
            for key, tensor in state.items():
                assert torch.equal(tensor, restored_state[key])
                assert tensor.stride() == restored_state[key].stride()
    step(model, optimizers, rngs)
    step(restored, restored_optimizers, restored_rngs)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, restored.state_dict()[name])
