"""Access to the code blocks of the documentation, for tests that run them."""

import re
from pathlib import Path
from typing import NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.md"))

_FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced code block of a page.

    Attributes:
        language: the language after the fence, such as "yaml".
        title: the title of the block, mostly the name of a file; empty without a title.
        text: the lines between the fences.
    """

    language: str
    title: str
    text: str


def read_blocks(page: str, language: str) -> list[Block]:
    """Return the blocks of a page in one language, in the order of the page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    candidates = [Block(*match.groups(default="")) for match in _FENCE.finditer(text)]
    return [block for block in candidates if block.language == language]


def read_block(page: str, title: str) -> str:
    """Return the text of the block of a page that has this title; there must be exactly one."""
    (text,) = (
        candidate.text
        for language in ("yaml", "python", "rst")
        for candidate in read_blocks(page, language)
        if candidate.title == title
    )
    return text
