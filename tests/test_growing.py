"""That what is found batch by batch lies in files as it would in memory, and is gone on with."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustgen.errors import UserError
from robustgen.io.example_store import ExampleStore

SHAPES = {"images": (2, 7, 1, 3, 3), "codes": (2, 7, 4)}


def whole() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def put(growing: ExampleStore, start: int, stop: int) -> None:
    growing.write_batch(start, {name: of[:, start:stop] for name, of in whole().items()})


def assert_whole(growing: ExampleStore) -> None:
    made = growing.tensors()
    assert made.keys() == SHAPES.keys()
    assert all(torch.equal(made[name], of) for name, of in whole().items())


@given(st.integers(1, 8), st.integers(0, 7), st.booleans())
def test_batches_become_the_whole(tmp_path_factory, size, stopped_after, in_memory):
    """In memory or in files, which an interrupted job goes on with, also over others' bytes."""
    path = None if in_memory else tmp_path_factory.mktemp("growing") / "a.safetensors"
    if path:
        path.with_name("a.safetensors.images").write_bytes(b"of other settings" * 100)
    first, starts = ExampleStore(SHAPES, path), range(0, 7, size)
    for start in starts[:stopped_after]:
        put(first, start, start + size)
    done = min(stopped_after * size, 7)
    second = first if in_memory else ExampleStore(SHAPES, path)
    assert in_memory or done == 0 or second.resume(range(0, done, size), done, first.digest())
    for start in range(done, 7, size):
        put(second, start, start + size)
    assert_whole(second)
    if path:
        once = ExampleStore(SHAPES, path.with_name("once"))
        for start in starts:
            put(once, start, start + size)
        assert second.digest() == once.digest()


def test_what_has_changed_is_not_gone_on_with(tmp_path):
    """Any byte of what was put, or a file cut off or gone."""
    path = tmp_path / "a"
    kept = ExampleStore(SHAPES, path)
    put(kept, 0, 3)
    put(kept, 3, 5)

    def goes_on() -> bool:
        return ExampleStore(SHAPES, path).resume([0, 3], 5, kept.digest())

    assert goes_on()
    assert not ExampleStore(SHAPES, path).resume([0, 2], 5, kept.digest())
    for name, shape in SHAPES.items():
        file, size = tmp_path / f"a.{name}", 4 * torch.Size(shape[2:]).numel()
        held = file.read_bytes()
        for place in range(len(held)):
            flipped = bytearray(held)
            flipped[place] ^= 1 << place % 8
            file.write_bytes(flipped)
            assert goes_on() == (place // size % 7 >= 5), place
        file.write_bytes(held[:-1])
        assert not goes_on()
        file.unlink()
        assert not goes_on()
        file.write_bytes(held)
    assert goes_on()


def test_files_of_a_failed_job_stay_only_where_a_checkpoint_speaks_of_them(tmp_path):
    kept = ExampleStore(SHAPES, tmp_path / "a")

    def interrupted(lasting: bool) -> None:
        with kept:
            put(kept, 0, 3)
            if lasting:
                kept.keep_on_error()
            raise KeyboardInterrupt

    for lasting in (False, True):
        with pytest.raises(KeyboardInterrupt):
            interrupted(lasting)
        assert len(list(tmp_path.iterdir())) == 2 * lasting
    with kept:
        put(kept, 3, 7)
    assert_whole(kept)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.codes").mkdir()
    with pytest.raises(UserError, match=r"a\.codes cannot be written: Is a directory"):
        put(ExampleStore(SHAPES, tmp_path / "a"), 0, 3)


ATTACK = """
import sys
from pathlib import Path
import torch
from robustgen import device
from robustgen.acceleration import backends
from robustgen.io.checkpoints import Checkpoint
from robustgen.models.cohort import Cohort
from robustgen.data.split import Split
from robustgen.evaluation.attacks import attack_cohort
from robustgen.specs import SearchConfig, Threat
from robustgen.io.tensors import save_tensors

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1e3

here, many = device.setup(), 4000
rngs = [torch.Generator().manual_seed(i) for i in range(3)]
cohort = Cohort("convnet", (1, 28, 28), 10, range(3), backends.for_cohorts(here))
cohort.initialize(rngs)
rows = torch.arange(many) % 100
bank = torch.rand(100, 1, 28, 28)
data = Split(bank, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
threat, how = Threat("image", "linf", 0.3), SearchConfig("signed", 0.1, 1)
for images in (200, 200, many):  # the second run still takes memory that it keeps
    before = peak()
    going = Checkpoint(Path(sys.argv[1], "a.checkpoint.safetensors"), {}, every=1e9)
    made = attack_cohort(cohort.eval(), data.take(slice(images)), threat, how, rngs, going)
print(peak() - before, made.images.nbytes / 1e6, made.images.sum().isfinite().item())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the peak")
def test_memory_does_not_grow_with_the_images(tmp_path):
    """What is found for 4,000 images of three models is 75 MB."""
    run = subprocess.run(
        [sys.executable, "-c", ATTACK, tmp_path], capture_output=True, text=True, check=True
    )
    more, found, _ = run.stdout.split()
    assert float(found) == pytest.approx(4000 * 3 * 28 * 28 * 4 / 1e6)
    assert float(more) < 20
