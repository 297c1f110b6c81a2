"""How many images of a class are held out for testing."""

from robustgen.errors import UserError


def held_out(images: int, share: float, where: str) -> int:
    """How many of a class's `images` are held out: about a `share` of them, yet not none or all.

    Raises:
        UserError: there are fewer than two, `where` says in what.
    """
    if images < 2:
        raise UserError(
            f"{where} has 1 image, but must have 2 or more, one to train and one to test"
        )
    return min(max(round(images * share), 1), images - 1)
