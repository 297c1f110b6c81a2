"""When work on a GPU is recorded and replayed, with a GPU that is made up."""

from types import SimpleNamespace

import pytest
import torch

from robustgen.gpu import replay


class Input:
    """A tensor on a GPU that knows what was copied into it."""

    is_cuda = True

    def __init__(self, *shape: int) -> None:
        self.shape, self.held = torch.Size(shape), self

    def copy_(self, other: "Input") -> None:
        """Remember which."""
        self.held = other


@pytest.fixture
def done(monkeypatch):
    """What was done, in turn."""
    done = []

    def record(function, inputs):
        done.append("recorded")
        function(*inputs)
        graph = SimpleNamespace(replay=lambda: done.append("replayed"))
        return replay._Recorded(graph, [Input(*of.shape) for of in inputs], ["outputs"])

    monkeypatch.setattr(replay, "_aside", lambda function, inputs: function(*inputs))
    monkeypatch.setattr(replay, "_record", record)
    return done


def test_first_it_is_plain_then_recorded_then_replayed(done):
    step = replay.Replayed(lambda *_: done.append("called") or ["plain"])
    assert [step(Input(3)) for _ in range(3)] == [["plain"], ["outputs"], ["outputs"]]
    assert done == ["called", "recorded", "called", "replayed", "replayed"]


def test_each_shape_is_recorded_and_given_its_inputs(done):
    step = replay.Replayed(lambda *_: ["plain"])
    for shape in (3, 4, 3, 4):
        step(Input(shape))
    assert done == ["recorded", "replayed"] * 2
    given = Input(3)
    step(given)
    (held,) = step._known[(given.shape,)].inputs
    assert held.held is given


def test_what_cannot_be_recorded_is_called_each_time_and_said_once(done, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("operation not permitted when stream is capturing\nand so on")

    monkeypatch.setattr(replay, "_record", fail)
    step = replay.Replayed(lambda *_: done.append("called") or ["plain"])
    assert [step(Input(3)) for _ in range(4)] == [["plain"]] * 4
    assert done == ["called"] * 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "takes longer: operation not permitted" in caplog.text


def test_on_a_cpu_it_is_called():
    step = replay.Replayed(lambda x: [x + 1])
    assert [step(torch.tensor(i))[0].item() for i in range(3)] == [1, 2, 3]
    assert not step._known
