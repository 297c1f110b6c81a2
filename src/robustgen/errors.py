"""The error that reports mistakes which the user can correct."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

_MAX_REASON_CHARACTERS = 200


class UserError(ValueError):
    """A mistake in a config or an input file, described in one sentence.

    The sentence says what is wrong, where it is, and what is allowed. The program that faces the
    user (the Snakefile, a job) prints only this sentence, without a traceback, and exits non-zero.

    Examples:
        >>> import robustgen
        >>> try:
        ...     robustgen.open_study("no/such/folder")
        ... except robustgen.UserError as error:
        ...     print(error)
        no/such/folder is not the folder of a study: it has no study.json
    """


def remedy(file: str | Path) -> str:
    """Return instructions for a damaged result file.

    With a shared cache the path is a symlink, so the target is named. The file must be requested
    explicitly, because Snakemake does not recreate a missing input whose outputs exist.
    """
    return f"remove {os.path.realpath(file)} and run again with {file} as a target"


@contextmanager
def reading(file: str | Path, kind: str) -> Iterator[None]:
    """Turn every exception of a reader into a `UserError` that names the file.

    Args:
        file: the file that is read.
        kind: the expected type of file, e.g. "font file".
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers raise almost any exception on damaged files
        reason = shorten(str(error).partition("\n")[0], _MAX_REASON_CHARACTERS)
        raise UserError(
            f"{file} is not a readable {kind}: {reason or type(error).__name__}"
        ) from error
