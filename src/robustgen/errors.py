"""The one kind of error that is the user's to mend."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten


class UserError(ValueError):
    """A mistake in a config or an input file, told in one sentence.

    The sentence says what is wrong, where, and what is allowed. Whoever faces the user (the
    Snakefile, a job) prints it alone, without a traceback, and exits non-zero.
    """


def remedy(file: str | Path) -> str:
    """What to do about a damaged result, which is a link where it is shared between studies.

    Snakemake does not miss a removed file while what was made of it is there.
    """
    return f"remove {os.path.realpath(file)}, then name {file} as a target to have it made again"


@contextmanager
def reading(file: str | Path, kind: str) -> Iterator[None]:
    """Turn whatever a reader stumbles over into a `UserError` that names the file.

    Args:
        file: what is read.
        kind: what it should be, e.g. "font file".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # on garbage, readers raise nearly anything
        said = shorten(str(error).partition("\n")[0], 200) or type(error).__name__
        raise UserError(f"{file} is not a readable {kind}: {said}") from error
