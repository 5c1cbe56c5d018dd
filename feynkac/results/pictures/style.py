"""What all panels share. The colours can be told apart in every kind of colour vision (Okabe, Ito 2008)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

INK, SOFT, FAINT, GONE = "#222222", "#6b6b6b", "#e4e4e4", "#cccccc"
"""Text, secondary text, guides, and what has died."""
BLUE, ORANGE = "#0072b2", "#d55e00"
"""What lives, and the likeliest particle."""

SETTINGS: dict[str, Any] = {
    "font.size": 8.5, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelcolor": SOFT, "text.color": INK, "axes.titlecolor": INK, "xtick.color": SOFT, "ytick.color": SOFT,
    "axes.edgecolor": SOFT, "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "text.parse_math": False, "savefig.dpi": 150,
}  # fmt: skip
"""Settings of matplotlib while a picture is drawn. Samples may hold dollar signs, which are no mathematics."""


def percent(share: float) -> str:
    """A probability as a reader wants it: two figures, and no "0 %" for what has weight."""
    if share == 0.0:
        return "0 %"
    if share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.1f} %" if share < 0.0995 else f"{100 * share:.0f} %"


def title(axes: Any, text: str, notes: Sequence[tuple[str, str]] = ()) -> None:
    """A title on the left and, on the right, `notes` (text, colour): what the lines of these colours are."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    axes.set_title(text)
    texts: list[Any] = [TextArea(note, textprops={"color": colour, "fontsize": 7.5}) for note, colour in notes]
    if not texts:
        return
    packed = HPacker(children=texts, pad=0, sep=8, align="baseline")
    axes.add_artist(
        AnchoredOffsetbox(
            "lower right", child=packed, frameon=False, pad=0, borderpad=0.5,
            bbox_to_anchor=(1.0, 1.0), bbox_transform=axes.transAxes,
        )
    )  # fmt: skip


def printable(text: str) -> str:
    """The text with an empty square for each character that the font lacks."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(c if ord(c) in known or c.isspace() else "\N{WHITE SQUARE}" for c in text)
