"""The number of images of a class that are held out for testing."""

from robustgen.errors import UserError


def choose_test_count(images: int, share: float, location: str) -> int:
    """Return how many of a class's `images` become test images.

    The number is `share` of the images, rounded, but at least 1 and at most all but one.

    Args:
        images: number of images of the class.
        share: share of the images to hold out, in [0, 1].
        location: the class and where it is from, for the error message.

    Raises:
        UserError: there are fewer than two images.
    """
    if images < 2:
        raise UserError(
            f"{location} has 1 image, but must have 2 or more, one to train and one to test"
        )
    return min(max(round(images * share), 1), images - 1)
