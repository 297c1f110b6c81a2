"""Compare the results of two versions of the code, value for value.

    python benchmarks/same_results.py OLD NEW

OLD and NEW are result folders of the same study, such as `results/demo`. Every column of every
table and every tensor must be equal, bit for bit; headers may differ, since they name the commit.
A column that was renamed is named as `old=new` after the folders.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open


def compare_tables(old: Path, new: Path, renamed: dict[str, str]) -> list[str]:
    """What differs between two Parquet files, a line for each column."""
    old_table, new_table = pq.read_table(old), pq.read_table(new)
    names = [renamed.get(name, name) for name in old_table.column_names]
    if names != new_table.column_names:
        return [f"{new}: columns {new_table.column_names} instead of {names}"]
    differing = []
    for name, renamed_to in zip(old_table.column_names, names, strict=True):
        one, other = (
            table[column].combine_chunks()
            for table, column in ((old_table, name), (new_table, renamed_to))
        )
        if not equal_columns(one, other):
            differing.append(f"{new}: column {renamed_to}")
    return differing


def equal_columns(one: pa.Array, other: pa.Array) -> bool:
    """Whether two columns are equal; NaN equals NaN, unlike in Arrow."""
    if one.equals(other):
        return True
    if not (pa.types.is_floating(one.type) and one.type == other.type):
        return False
    numbers, other_numbers = (c.to_numpy(zero_copy_only=False) for c in (one, other))
    return np.array_equal(numbers, other_numbers, equal_nan=True)


def compare_tensors(old: Path, new: Path) -> list[str]:
    """What differs between two safetensors files, a line for each tensor."""
    with safe_open(old, "numpy") as old_file, safe_open(new, "numpy") as new_file:
        names, new_names = sorted(old_file.keys()), sorted(new_file.keys())
        if names != new_names:
            return [f"{new}: tensors {new_names} instead of {names}"]
        return [
            f"{new}: tensor {name}"
            for name in names
            if old_file.get_tensor(name).tobytes() != new_file.get_tensor(name).tobytes()
        ]


def compare_folders(old: Path, new: Path, renamed: dict[str, str]) -> tuple[list[str], int]:
    """What differs between two folders of results, and how many files were compared."""
    differing, count = [], 0
    for old_file in sorted(old.rglob("[!.]*")):
        # A copy of a VAE-GAN in `trained` is named by the fingerprint of the code.
        is_table = old_file.suffix == ".parquet"
        is_compared = is_table or old_file.suffix == ".safetensors"
        if not is_compared or old_file.parent.name == "trained":
            continue
        count += 1
        new_file = new / old_file.relative_to(old)
        if not new_file.exists():
            differing.append(f"{new_file}: is missing")
        elif is_table:
            differing += compare_tables(old_file, new_file, renamed)
        else:
            differing += compare_tensors(old_file, new_file)
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
