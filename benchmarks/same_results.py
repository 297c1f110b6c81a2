"""Compare the results of two versions of the code, value for value.

    python benchmarks/same_results.py OLD NEW [OLD_NAME=NEW_NAME ...]

OLD and NEW are result folders of the same study, such as `results/demo`. Every column of every
table and every tensor must be equal, bit for bit. Headers may differ, since they name the commit.
Columns that were renamed are given with their old and new names.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open


def compare_tables(old: Path, new: Path, new_names: dict[str, str]) -> list[str]:
    """Compare two Parquet files; a line for each difference."""
    old_table, new_table = pq.read_table(old), pq.read_table(new)
    names = [new_names.get(name, name) for name in old_table.column_names]
    if names != new_table.column_names:
        return [f"{new}: columns {new_table.column_names} instead of {names}"]
    differences = []
    for old_name, name in zip(old_table.column_names, names, strict=True):
        old_column = old_table[old_name].combine_chunks()
        new_column = new_table[name].combine_chunks()
        if not equal_columns(old_column, new_column):
            differences.append(f"{new}: column {name}")
    return differences


def equal_columns(old: pa.Array, new: pa.Array) -> bool:
    """Whether two columns are equal; NaN equals NaN, unlike in Arrow."""
    if old.equals(new):
        return True
    if not (pa.types.is_floating(old.type) and old.type == new.type):
        return False
    old_numbers, new_numbers = (c.to_numpy(zero_copy_only=False) for c in (old, new))
    return np.array_equal(old_numbers, new_numbers, equal_nan=True)


def compare_tensors(old: Path, new: Path) -> list[str]:
    """Compare two safetensors files; a line for each difference."""
    with safe_open(old, "numpy") as old_file, safe_open(new, "numpy") as new_file:
        names, new_names = sorted(old_file.keys()), sorted(new_file.keys())
        if names != new_names:
            return [f"{new}: tensors {new_names} instead of {names}"]
        return [
            f"{new}: tensor {name}"
            for name in names
            if old_file.get_tensor(name).tobytes() != new_file.get_tensor(name).tobytes()
        ]


def compare_folders(old: Path, new: Path, new_names: dict[str, str]) -> tuple[list[str], int]:
    """Compare two folders of results; the differences, and the number of compared files."""
    differences, count = [], 0
    for old_file in sorted(old.rglob("[!.]*")):
        # The names of VAE-GANs in `trained` contain the fingerprint of the code.
        is_table = old_file.suffix == ".parquet"
        is_compared = is_table or old_file.suffix == ".safetensors"
        if not is_compared or old_file.parent.name == "trained":
            continue
        count += 1
        new_file = new / old_file.relative_to(old)
        if not new_file.exists():
            differences.append(f"{new_file}: is missing")
        elif is_table:
            differences += compare_tables(old_file, new_file, new_names)
        else:
            differences += compare_tensors(old_file, new_file)
    return differences, count


def main() -> None:
    """Print all differences; exit with status 1 if there are any, or if nothing was compared."""
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    old, new, *pairs = sys.argv[1:]
    new_names = dict(pair.split("=") for pair in pairs)
    differences, count = compare_folders(Path(old), Path(new), new_names)
    print("\n".join([*differences, f"{count} files compared, {len(differences)} differences"]))
    sys.exit(bool(differences) or not count)


if __name__ == "__main__":
    main()
