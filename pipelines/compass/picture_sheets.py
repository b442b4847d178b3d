"""Sheets of pictures for people: arms side by side, and pictures with what both detectors found in them."""

import textwrap
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from pipelines.compass.judging import Verdict
from pipelines.compass.parser import ParsedPrompt

CELL_PX = 192
_LINE_PX, _TEXT_PX, _GAP_PX = 15, 12, 8
_PAPER, _INK, _RIGHT, _WRONG = (255, 255, 255), (30, 30, 30), (30, 140, 60), (200, 40, 40)
_COLOURS = ((0, 170, 220), (220, 0, 180))  # of the detectors' boxes, in their order


def comparison_grid(
    columns: Sequence[str], rows: Sequence[tuple[str, Sequence[tuple[Image.Image, bool]]]]
) -> Image.Image:
    """One row per prompt, one column per arm; a green frame: right, a red one: wrong.

    Args:
        columns: names of the arms. rows: (prompt, (picture, is right) of each arm).
    Raises:
        ValueError: no row, or one with another number of pictures than there are arms.
    """
    if not rows or any(len(pictures) != len(columns) for _, pictures in rows):
        raise ValueError(f"every row needs {len(columns)} pictures, and there must be a row")
    step = CELL_PX + _GAP_PX
    width = step * (len(columns) + 1) + _GAP_PX
    sheet = Image.new("RGB", (width, _LINE_PX + _GAP_PX + step * len(rows)), _PAPER)
    for column, name in enumerate(columns, start=1):
        _write(sheet, (column * step, _GAP_PX // 2), [name])
    for row, (prompt, pictures) in enumerate(rows):
        top = _LINE_PX + _GAP_PX + row * step
        _write(sheet, (_GAP_PX, top + _GAP_PX), _lines(prompt, CELL_PX))
        for column, (picture, is_right) in enumerate(pictures, start=1):
            cell = _fitted(picture)
            box = (0, 0, cell.width - 1, cell.height - 1)
            ImageDraw.Draw(cell).rectangle(box, outline=_RIGHT if is_right else _WRONG, width=3)
            sheet.paste(cell, (column * step, top))
    return sheet


def check_cell(
    number: int, picture: Image.Image, parsed: ParsedPrompt, verdicts: Mapping[str, Verdict]
) -> Image.Image:
    """A picture with the boxes of each detector in its own colour, and below it the prompt and all verdicts.

    Args:
        verdicts: name of the detector -> what it says of this picture; at most two.
    """
    cell = _fitted(picture)
    pen, scale = ImageDraw.Draw(cell), cell.width / picture.width
    for verdict, colour in zip(verdicts.values(), _COLOURS, strict=False):
        for entity, found in verdict.boxes.items():
            box = [edge * scale for edge in found.box]
            pen.rectangle(box, outline=colour, width=2)
            # the second detector writes at the other end: boxes often lie on each other
            at = (box[0] + 3, box[1] + 1 if colour == _COLOURS[0] else box[3] - _LINE_PX)
            pen.text(at, f"{parsed.entities[entity].noun} {found.score:.2f}", fill=colour, font=_font())
    lines = [(line, _INK) for line in _lines(f"{number}. {parsed.text}", CELL_PX)[:3]]
    for (name, verdict), colour in zip(verdicts.items(), _COLOURS, strict=False):
        lines += [(line, colour) for line in _lines(f"{name}: {said(verdict, parsed)}", CELL_PX)[:3]]
    out = Image.new("RGB", (CELL_PX, cell.height + 9 * _LINE_PX), _PAPER)
    out.paste(cell, (0, 0))
    for place, (line, ink) in enumerate(lines):
        _write(out, (2, cell.height + 2 + place * _LINE_PX), [line], ink)
    return out


def said(verdict: Verdict, parsed: ParsedPrompt) -> str:
    """ "yes", or "no" with the reason."""
    if verdict.passed:
        return "yes"
    missing = ", ".join(parsed.entities[index].noun for index in verdict.missing)
    if missing:
        return f"no, without {missing}"
    return "no, " + next((item.reason for item in verdict.relations if item.passed is False), "")


def page_of(cells: Sequence[Image.Image], columns: int = 5) -> Image.Image:
    """Cells of one width in rows.

    Raises:
        ValueError: no cell.
    """
    if not cells:
        raise ValueError("a page needs at least one cell")
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) + _GAP_PX for row in rows]
    width = min(columns, len(cells)) * (cells[0].width + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (width, sum(heights) + _GAP_PX), _PAPER)
    top = _GAP_PX
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GAP_PX + column * (cell.width + _GAP_PX), top))
        top += height
    return sheet


def _fitted(picture: Image.Image) -> Image.Image:
    """As wide as a cell and no higher."""
    scale = CELL_PX / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_PX)


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width // 6, 8)) or [""]


def _write(
    sheet: Image.Image, at: tuple[float, float], lines: Sequence[str], ink: tuple[int, int, int] = _INK
) -> None:
    pen = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        pen.text((at[0], at[1] + number * _LINE_PX), line, fill=ink, font=_font())
