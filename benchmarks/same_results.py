"""Compare the results of two versions of the code, value for value.

    python benchmarks/same_results.py OLD NEW

OLD and NEW are result folders of the same study, such as `results/demo`. Every column of every
table and every tensor must be equal, bit for bit; headers may differ, since they name the commit.
A column that was renamed is named as `old=new` after the folders.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from safetensors import safe_open


def compare_tables(old: Path, new: Path, renamed: dict[str, str]) -> list[str]:
    """What differs between two Parquet files, a line for each column."""
    before, after = pq.read_table(old), pq.read_table(new)
    names = [renamed.get(name, name) for name in before.column_names]
    if names != after.column_names:
        return [f"{new}: columns {after.column_names} instead of {names}"]
    differing = []
    for name, renamed_to in zip(before.column_names, names, strict=True):
        one, other = (
            table[column].combine_chunks()
            for table, column in ((before, name), (after, renamed_to))
        )
        if not one.equals(other) and not np.array_equal(
            one.to_numpy(zero_copy_only=False), other.to_numpy(zero_copy_only=False), equal_nan=True
        ):
            differing.append(f"{new}: column {renamed_to}")
    return differing


def compare_tensors(old: Path, new: Path) -> list[str]:
    """What differs between two safetensors files, a line for each tensor."""
    with safe_open(old, "numpy") as before, safe_open(new, "numpy") as after:
        if set(before.keys()) != set(after.keys()):
            return [f"{new}: tensors {sorted(after.keys())} instead of {sorted(before.keys())}"]
        return [
            f"{new}: tensor {key}"
            for key in before.keys()  # noqa: SIM118 - the file is no mapping
            if before.get_tensor(key).tobytes() != after.get_tensor(key).tobytes()
        ]


def compare_folders(old: Path, new: Path, renamed: dict[str, str]) -> tuple[list[str], int]:
    """What differs between two folders of results, and how many files were compared."""
    differing, count = [], 0
    for before in sorted(old.rglob("[!.]*")):
        # A copy of a VAE-GAN in `trained` is named by the fingerprint of the code.
        if before.suffix not in (".parquet", ".safetensors") or before.parent.name == "trained":
            continue
        count += 1
        after = new / before.relative_to(old)
        if not after.exists():
            differing.append(f"{after}: is missing")
        elif before.suffix == ".parquet":
            differing += compare_tables(before, after, renamed)
        else:
            differing += compare_tensors(before, after)
    return differing, count


def main() -> None:
    """Print what differs; exit with status 1 if anything does, or if nothing was compared."""
    old, new, *pairs = sys.argv[1:]
    renamed = dict(pair.split("=") for pair in pairs)
    differing, count = compare_folders(Path(old), Path(new), renamed)
    print("\n".join([*differing, f"{count} files compared, {len(differing)} differences"]))
    sys.exit(bool(differing) or not count)


if __name__ == "__main__":
    main()
