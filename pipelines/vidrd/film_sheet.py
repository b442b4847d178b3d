"""Contact sheets of films: a row of frames per film with its name beside it, and gaps where clips meet."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

HEIGHT_PX = 64  # of a frame
GAP_PX = 6  # where clips meet
LINE_PX = 1  # between frames of a clip
LABEL_PX = 110
TITLE_PX = 24
TEXT_PX = 13
BACKGROUND, INK = (250, 250, 250), (30, 30, 30)


def film_strip(clips: Sequence[Sequence[Image.Image]], height: int = HEIGHT_PX) -> Image.Image:
    """All frames of a film side by side, `height` pixels high, with gaps between clips.

    Raises:
        ValueError: no frames.
    """
    if not any(clips):
        raise ValueError("a strip needs at least one frame")
    first = next(clip for clip in clips if clip)[0]
    width = max(1, round(first.width * height / first.height))
    places, left = [], 0
    for clip in clips:
        for frame in clip:
            places.append((frame, left))
            left += width + LINE_PX
        left += GAP_PX - LINE_PX
    strip = Image.new("RGB", (left - GAP_PX, height), BACKGROUND)
    for frame, left in places:
        strip.paste(frame.convert("RGB").resize((width, height), Image.Resampling.LANCZOS), (left, 0))
    return strip


def film_sheet(films: Sequence[tuple[str, Mapping[str, Image.Image]]]) -> Image.Image:
    """Strips under their titles, each behind its name.

    Args:
        films: (title, name -> strip) from top to bottom; rows end where their films end.
    Raises:
        ValueError: no films.
    """
    strips = [strip for _, rows in films for strip in rows.values()]
    if not strips:
        raise ValueError("a sheet needs at least one film")
    width = LABEL_PX + max(strip.width for strip in strips)
    height = sum(TITLE_PX + sum(strip.height + GAP_PX for strip in rows.values()) for _, rows in films)
    sheet = Image.new("RGB", (width, height), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    top = 0
    for title, rows in films:
        pen.text((GAP_PX, top + TITLE_PX / 2), title, INK, font, anchor="lm")
        top += TITLE_PX
        for name, strip in rows.items():
            pen.text((GAP_PX, top + strip.height / 2), name, INK, font, anchor="lm")
            sheet.paste(strip, (LABEL_PX, top))
            top += strip.height + GAP_PX
    return sheet
