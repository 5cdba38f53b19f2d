"""What our pictures have in common: ink, axes, text that is taken as it is written, and the way to a PNG.

In: sizes and names.  Out: figures, and their bytes; the same figure gives the same bytes.
"""

import io
from collections.abc import Sequence
from typing import Literal

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, GRID, TRAIN_COLOR, HELD_OUT_COLOR = "#333f48", "#e4e8eb", "#8da0b3", "#d1495b"
DOTS_PER_INCH = 120


def new_figure(
    width: float, height: float, title: str, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """A figure of so many inches, its title at the left; without a layout, axes lie where they are put."""
    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=INK, fontsize=13, x=0.01, ha="left", parse_math=False)
    return figure


def tidy(axes: Axes) -> None:
    """Remove the box, and draw a light grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)


def place_axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def to_svg(figure: Figure) -> str:
    """The figure as an <svg> element for a page; the same figure gives the same text."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "foldserve", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def drawable_names(names: Sequence[str], longest: int = 22) -> list[str]:
    """Names cut to `longest` letters; one with letters that the font lacks becomes its number."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    known = font.get_charmap()
    drawable = []
    for index, name in enumerate(names):
        name = " ".join(name.split())
        if not all(ord(letter) in known for letter in name):
            name = f"#{index}"
        drawable.append(name if len(name) <= longest else name[: longest - 1] + "…")
    return drawable
