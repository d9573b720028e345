"""One look for every chart: matplotlib draws it, and CSS variables colour it, so that it follows dark and light."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in colours that a chart is drawn in; `to_svg` puts the CSS variable in their place.
INK, MUTED, LINE, PAPER = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04"
SERIES = {
    "full_method": "#0a0b11",
    "cross_entropy_only": "#0a0b12",
    "cam_pipeline": "#0a0b13",
    "full_supervision": "#0a0b14",
    "craanet": "#0a0b11",
    "pfscnet": "#0a0b11",
    "accumulated": "#0a0b11",
    "refined": "#0a0b11",
    "last_epoch": "#0a0b12",
    "cam": "#0a0b13",
    "grad_cam": "#0a0b13",
}
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    LINE: "--line",
    PAPER: "--card",
    "#0a0b11": "--s1",
    "#0a0b12": "--s2",
    "#0a0b13": "--s3",
    "#0a0b14": "--s4",
}

_RC: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 12.0,
    "text.color": INK,
    "text.parse_math": False,  # a tissue may be called $x$
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.unicode_minus": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 11.0,
    "ytick.labelsize": 11.0,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "patch2tissue",
}


@contextmanager
def chart(width: int, height: int, margins: tuple[int, int, int, int]) -> Iterator[tuple[Figure, Axes]]:
    """A figure in the page's look with one pair of axes.

    Args:
        width: width in CSS pixels.
        height: height in CSS pixels.
        margins: room around the axes in CSS pixels: top, right, bottom, left. Fixed, since finding it out by drawing
            everything twice takes longer than all the rest.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    top, right, bottom, left = margins
    with mpl.rc_context(_RC):
        # one point is one CSS pixel in the SVG
        figure = Figure(figsize=(width / 72, height / 72))
        FigureCanvasAgg(figure)
        inside = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
        yield figure, figure.add_axes(inside)


def to_svg(figure: Figure, name: str, alt: str) -> Markup:
    """Write a figure as inline SVG.

    Args:
        figure: a figure of `chart`, still inside its `with`.
        name: prefix of the identifiers in it; unique on the page.
        alt: what it shows, for those who do not see it.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the browser has more letters
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]+", _font, text)
    text = _replace_each(text, r"\bid=\"([^\"]+)\"", lambda m: f'id="{name}-{m[1]}"')
    text = _replace_each(text, r"href=\"#([^\"]+)\"", lambda m: f'href="#{name}-{m[1]}"')
    text = _replace_each(text, r"url\(#([^)]+)\)", lambda m: f"url(#{name}-{m[1]})")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    head, _, rest = text.partition(">")
    box = re.search(r"viewBox=\"0 0 ([\d.]+) ([\d.]+)\"", head)
    width, height = (float(box[1]), float(box[2])) if box else (600.0, 400.0)
    opening = (
        f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" style="max-width:{width:g}px" role="img" '
        f'aria-label="{escape(alt)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return Markup(opening + re.sub(r"\n\s*", "\n", rest))  # matplotlib escaped the texts in it


def _font(match: re.Match[str]) -> str:
    weight = re.search(r"\b(\d00|bold)\b", match[1])
    return f"font-size: {match[2]}px" + (f"; font-weight: {weight[1]}" if weight else "")


def _replace_each(text: str, pattern: str, replacement: Callable[[re.Match[str]], str]) -> str:
    return re.sub(pattern, replacement, text)


def series_variable(key: str) -> str:
    """CSS variable that colours a series, for legends in HTML."""
    return _VARIABLES[SERIES.get(key, MUTED)]
