"""A `Picture` as text: shades, colours where there are any, axes and a legend.

Three palettes: colours that grow brighter, Unicode shades, plain ASCII.  Steps
are those of a square, because shares are small more often than large.
"""

from math import ceil, floor, log10, sqrt
from typing import Final

from msgspec import Struct
from rich.console import Console
from rich.text import Text

from .picture import Band, Picture

COLUMNS_PER_TICK: Final = 10
"""Room for a number and some air."""


class Palette(Struct, frozen=True):
    """How a share is shown.

    Attributes:
        shades: Characters for growing shares; the first one stands for none.
        styles: A style for each.
        side: Left of a row.
        gap: Where addresses are left out.
        corner: Where the axes meet.
        line: The horizontal axis.
        mark: A tick on it.
    """

    shades: str
    styles: tuple[str, ...]
    side: str = "│"
    gap: str = "┊"
    corner: str = "└"
    line: str = "─"
    mark: str = "┴"

    def level(self, share: float) -> int:
        """Return which shade stands for a share; only nothing at all looks like nothing."""
        steps = len(self.shades) - 1
        return min(steps, ceil(sqrt(share) * steps))


# From dark to bright, so that they can be told apart in grey as well (viridis,
# its dark end lifted for black terminals); the shades stay, for what copies no colours.
COLOURS: Final = Palette(
    " ░░▒▒▓▓██",
    ("", "#5a4a9f", "#4668a8", "#3580a0", "#21918c", "#27ad81", "#5ec962", "#aadc32", "#fde725"),
)
SHADES: Final = Palette(" ░▒▓█", ("",) * 5)
ASCII: Final = Palette(" .:+#", ("",) * 5, side="|", gap=":", corner="+", line="-", mark="+")


def palette(console: Console) -> Palette:
    """Return what a console can show."""
    if console.options.ascii_only:
        return ASCII

    rich_in_colours = console.color_system in {"256", "truecolor"} and not console.no_color
    return COLOURS if rich_in_colours else SHADES


def margin(highest: int) -> int:
    """Return the columns left of a picture whose highest address is this."""
    return len(f"{highest:#x}") + 3


def paint(picture: Picture, colours: Palette) -> list[Text]:
    """Return the lines of a picture."""
    highest = max(band.first for band in picture.bands if band is not None)
    width = len(next(band.shares for band in picture.bands if band is not None))
    left = margin(highest)
    marks = ticks(picture.length, width)
    axis = "".join(colours.mark if at in marks else colours.line for at in range(width))
    return [
        *(_row(band, left, colours) for band in picture.bands),
        Text(" " * (left - 1) + colours.corner + axis, style="dim"),
        Text(" " * left + _numbers(marks, width, picture.axis), style="dim"),
        Text(" " * left).append_text(legend(colours)),
    ]


def legend(colours: Palette) -> Text:
    """Return what each shade stands for."""
    text = Text("mapped: none ' '")
    steps = len(colours.shades) - 1
    shown = range(1, steps + 1) if steps <= len(SHADES.shades) else range(2, steps + 1, 2)
    for level in shown:
        text.append("  ").append(colours.shades[level] * 2, style=colours.styles[level])
        text.append(f" to {100 * (level / steps) ** 2:.0f}%" if level < steps else " more")

    return text


def ticks(length: float, width: int) -> dict[int, str]:
    """Return the columns of round moments, and how they read.

    Args:
        length: Seconds or events from the left to the right edge.
        width: Columns.
    """
    step = _round_up(length * COLUMNS_PER_TICK / width)
    digits = max(0, -floor(log10(step)))
    moments = [at * step for at in range(int(length / step) + 1)]
    return {min(width - 1, int(moment / length * width)): f"{moment:,.{digits}f}" for moment in moments}


# -- inside --------------------------------------------------------------------


def _row(band: Band | None, left: int, colours: Palette) -> Text:
    if band is None:
        return Text(f"{colours.gap:>{left}}", style="dim")

    text = Text().append(f"{band.first:#{left - 2}x} ", style="cyan").append(colours.side, style="dim")
    for share in band.shares:
        level = colours.level(share)
        text.append(colours.shades[level], style=colours.styles[level])

    return text


def _numbers(marks: dict[int, str], width: int, unit: str) -> str:
    """Return the line of numbers, each below its tick, and the unit at the right edge."""
    line = ""
    room = width - len(unit) - 1
    for column, number in marks.items():
        if len(line) <= column and column + len(number) <= room:
            line = line.ljust(column) + number

    return f"{line.ljust(room)} {unit}"


def _round_up(value: float) -> float:
    """Return the next of 1, 2, 5, 10, 20, 50 and so on, in either direction."""
    power = 10.0 ** floor(log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value)
