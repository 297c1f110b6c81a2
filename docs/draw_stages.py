"""Draw the stages of a study as an SVG: `python docs/draw_stages.py`.

Boxes have their own background and arrows are of a middle grey, so that the picture can be read on
a light and on a dark page. The colours are those of Okabe and Ito, lightened; no meaning rests on
colour alone.
"""

from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).parent / "images" / "stages.svg"
WIDTH, HEIGHT = 960, 560
BOX_WIDTH, BOX_HEIGHT = 192, 92
INK, ARROW = "#1b1b1b", "#8a8a8a"
DATA, MODELS, ATTACKS, SUMMARIES = "#cfe5f5", "#fbe3b5", "#f6d0bb", "#c9ebdd"
"""Backgrounds: light blue, orange, vermilion and green."""

BOXES = {
    "dataset": (24, 120, DATA, "Data set", ["images and labels,", "known codes if any"]),
    "manifolds": (24, 288, DATA, "Learned manifold", ["VAE-GANs, and the", "codes of all images"]),
    "classifiers": (272, 120, MODELS, "Classifiers", ["a cohort for each", "method and N"]),
    "attacks": (496, 120, ATTACKS, "Attacks", ["adversarial examples", "for each cohort"]),
    "distances": (744, 120, ATTACKS, "Distances", ["to the manifold,", "for each example"]),
    "tables": (496, 288, SUMMARIES, "Tables", ["errors, success rates,", "distances, intervals"]),
    "verdicts": (384, 444, SUMMARIES, "Verdicts", ["on the four claims"]),
    "figures": (608, 444, SUMMARIES, "Figures", ["1 to 4, and the report"]),
}
"""Left and upper edge, colour, name and words of each stage."""

ARROWS = [
    [(120, 212), (120, 284)],  # data set to manifold
    [(216, 166), (268, 166)],  # data set to classifiers
    [(464, 166), (492, 166)],  # classifiers to attacks
    [(688, 166), (740, 166)],  # attacks to distances
    [(216, 334), (316, 334), (316, 230)],  # manifold to the search
    [(592, 212), (592, 284)],  # attacks to tables
    [(840, 212), (840, 334), (692, 334)],  # distances to tables
    [(420, 212), (420, 334), (492, 334)],  # test errors of classifiers to tables
    [(560, 380), (560, 410), (480, 410), (480, 440)],  # tables to verdicts
    [(624, 380), (624, 410), (704, 410), (704, 440)],  # tables to figures
]


def draw() -> str:
    """The picture as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="Helvetica, Arial, sans-serif" role="img">',
        "<title>The stages of a study</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="11" '
        'markerHeight="11" markerUnits="userSpaceOnUse" orient="auto">'
        f'<path d="M0 0 L10 5 L0 10 z" fill="{ARROW}"/></marker></defs>',
        _bar(24, 20, 912, "The study: one configuration file"),
        f'<path d="M480 60 V84" stroke="{ARROW}" stroke-width="2.5" marker-end="url(#head)"/>',
        f'<rect x="258" y="90" width="444" height="138" rx="14" fill="none" stroke="{ARROW}" '
        'stroke-width="2" stroke-dasharray="7 5"/>',
    ]
    for points in ARROWS:
        path = " L".join(f"{x} {y}" for x, y in points)
        parts.append(
            f'<path d="M{path}" fill="none" stroke="{ARROW}" stroke-width="2.5" '
            'stroke-linejoin="round" marker-end="url(#head)"/>'
        )
    parts += [_box(*box) for box in BOXES.values()]
    parts.append(_label(368, 77, "the same search in both"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _box(x: int, y: int, colour: str, name: str, lines: list[str]) -> str:
    """A stage: its name above one or two lines of words."""
    middle = x + BOX_WIDTH // 2
    height = BOX_HEIGHT if len(lines) > 1 else 72
    rows = "".join(
        f'<text x="{middle}" y="{y + 56 + 20 * row}" font-size="15">{escape(line)}</text>'
        for row, line in enumerate(lines)
    )
    return (
        f'<g text-anchor="middle" fill="{INK}"><rect x="{x}" y="{y}" width="{BOX_WIDTH}" '
        f'height="{height}" rx="10" fill="{colour}" stroke="{ARROW}"/>'
        f'<text x="{middle}" y="{y + 31}" font-size="18" font-weight="bold">{escape(name)}</text>'
        f"{rows}</g>"
    )


def _bar(x: int, y: int, width: int, words: str) -> str:
    """The configuration file above all stages."""
    return (
        f'<g text-anchor="middle" fill="{INK}"><rect x="{x}" y="{y}" width="{width}" '
        f'height="40" rx="10" fill="#e9e4f0" stroke="{ARROW}"/>'
        f'<text x="{x + width // 2}" y="{y + 26}" font-size="17" font-weight="bold">'
        f"{escape(words)}</text></g>"
    )


def _label(middle: int, y: int, words: str) -> str:
    """Words on a background of their own, without a frame."""
    return (
        f'<g text-anchor="middle" fill="{INK}"><rect x="{middle - 95}" y="{y}" width="190" '
        f'height="26" rx="13" fill="#eeeeee"/><text x="{middle}" y="{y + 18}" font-size="14">'
        f"{escape(words)}</text></g>"
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
