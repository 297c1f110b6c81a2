"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """A mistake in a config or an input file, told in one sentence.

    The sentence says what is wrong, where, and what is allowed. Whoever faces the user (the
    Snakefile, a job) prints it alone, without a traceback, and exits non-zero.
    """
