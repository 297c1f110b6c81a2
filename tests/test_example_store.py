"""The store of examples: files hold the same bytes as memory, and are resumed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustgen.errors import UserError
from robustgen.io.checkpoints import ExampleStore

SHAPES = {"images": (2, 7, 1, 3, 3), "codes": (2, 7, 4)}


def make_tensors() -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in SHAPES.items()}


def write(store: ExampleStore, start: int, stop: int) -> None:
    batch = {name: tensor[:, start:stop] for name, tensor in make_tensors().items()}
    store.write_batch(start, batch)


def assert_complete(store: ExampleStore) -> None:
    tensors = store.tensors()
    assert tensors.keys() == SHAPES.keys()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in make_tensors().items())


@given(st.integers(1, 8), st.integers(0, 7), st.booleans())
def test_batches_are_joined_also_by_a_resumed_job(tmp_path_factory, size, stopped_after, in_memory):
    """In memory or in files, one of which has bytes of a job with other settings."""
    path = None if in_memory else tmp_path_factory.mktemp("store") / "a.safetensors"
    if path:
        path.with_name("a.safetensors.images").write_bytes(b"of other settings" * 100)
    first, starts = ExampleStore(SHAPES, path), range(0, 7, size)
    for start in starts[:stopped_after]:
        write(first, start, start + size)
    examples_done = min(stopped_after * size, 7)
    second = first if in_memory else ExampleStore(SHAPES, path)
    if not in_memory and examples_done:
        batch_starts = range(0, examples_done, size)
        assert second.resume(batch_starts, examples_done, first.digest())
    for start in range(examples_done, 7, size):
        write(second, start, start + size)
    assert_complete(second)
    if path:
        undisturbed = ExampleStore(SHAPES, path.with_name("undisturbed"))
        for start in starts:
            write(undisturbed, start, start + size)
        assert second.digest() == undisturbed.digest()


def test_changed_files_are_not_resumed(tmp_path):
    """Any written byte was changed, or a file is truncated or missing."""
    path = tmp_path / "a"
    store = ExampleStore(SHAPES, path)
    write(store, 0, 3)
    write(store, 3, 5)

    def resumes() -> bool:
        return ExampleStore(SHAPES, path).resume([0, 3], 5, store.digest())

    assert resumes()
    assert not ExampleStore(SHAPES, path).resume([0, 2], 5, store.digest())
    for name, shape in SHAPES.items():
        file, example_bytes = tmp_path / f"a.{name}", 4 * torch.Size(shape[2:]).numel()
        content = file.read_bytes()
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << position % 8
            file.write_bytes(damaged)
            is_unwritten = position // example_bytes % 7 >= 5
            assert resumes() == is_unwritten, position
        file.write_bytes(content[:-1])
        assert not resumes()
        file.unlink()
        assert not resumes()
        file.write_bytes(content)
    assert resumes()


def test_files_of_a_failed_job_are_removed_unless_a_checkpoint_needs_them(tmp_path):
    store = ExampleStore(SHAPES, tmp_path / "a")

    def fail(has_checkpoint: bool) -> None:
        with store:
            write(store, 0, 3)
            if has_checkpoint:
                store.keep_on_error()
            raise KeyboardInterrupt

    for has_checkpoint in (False, True):
        with pytest.raises(KeyboardInterrupt):
            fail(has_checkpoint)
        assert len(list(tmp_path.iterdir())) == 2 * has_checkpoint
    with store:
        write(store, 3, 7)
    assert_complete(store)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "a.codes").mkdir()
    with pytest.raises(UserError, match=r"a\.codes cannot be written: Is a directory"):
        write(ExampleStore(SHAPES, tmp_path / "a"), 0, 3)


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

def peak_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1e3

compute_device, max_images = device.setup(), 4000
rngs = [torch.Generator().manual_seed(i) for i in range(3)]
cohort = Cohort("convnet", (1, 28, 28), 10, range(3), backends.for_cohorts(compute_device))
cohort.initialize(rngs)
rows = torch.arange(max_images) % 100
source_images = torch.rand(100, 1, 28, 28)
data = Split(source_images, rows, rows % 10, None, (rows, rows), tuple("ABCDEFGHIJ"))
threat, search = Threat("image", "linf", 0.3), SearchConfig("signed", 0.1, 1)
# 500 images are attacked together. The allocator takes some runs to find the memory that they need.
for images in (1000, 1000, 1000, 1000, max_images):
    peak_before = peak_megabytes()
    checkpoint = Checkpoint(Path(sys.argv[1], "a.checkpoint.safetensors"), {}, interval_s=1e9)
    batch = data.select(slice(images))
    result = attack_cohort(cohort.eval(), batch, threat, search, rngs, checkpoint)
increase = peak_megabytes() - peak_before  # before the images are read, which maps them to memory
print(increase, result.images.nbytes / 1e6, result.images.sum().isfinite().item())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """The adversarial images and codes of 4,000 images and three models have 75 MB."""
    run = subprocess.run(
        [sys.executable, "-c", ATTACK, tmp_path], capture_output=True, text=True, check=True
    )
    increase, size, _ = run.stdout.split()
    assert float(size) == pytest.approx(4000 * 3 * 28 * 28 * 4 / 1e6)
    assert float(increase) < 20
