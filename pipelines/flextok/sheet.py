"""A sheet of reconstructions: what 1, 2, 4, ... tokens keep, above JPEG and WebP of the same bytes."""

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from pipelines.flextok.measures import CODECS, TOKEN_BYTES, encode_within, psnr, stops_up_to

LEFT, HEAD, LINE, GAP = (
    64,
    36,
    16,
    8,
)  # px: names of the lines, names of the columns, figures, between pictures
Cell = tuple[Image.Image | None, str]


def reconstruction_sheet(pipeline: Any, pictures: Sequence[Image.Image], seed: int) -> Image.Image:
    """Three lines per picture: tokens, JPEG, WebP; a column per token count, with PSNR under each cell.

    Args:
        pipeline: a `FlexTokPipeline`.
        pictures: squares of the pipeline's side.
        seed: of the decoder's noise.
    """
    side, stops = pipeline.side, stops_up_to(pipeline.num_tokens)
    columns = ["original", *(f"{stop} token{'s' * (stop > 1)}" for stop in stops)]
    below = ["", *(f"{TOKEN_BYTES * stop} bytes" for stop in stops)]
    blocks = [_lines(pipeline, picture, stops, seed) for picture in pictures]
    height = HEAD + len(blocks) * (GAP + sum((side + LINE) for _ in ("tokens", *CODECS)))
    sheet = Image.new("RGB", (LEFT + side * len(columns), height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (name, size) in enumerate(zip(columns, below, strict=True)):
        draw.text((LEFT + column * side + 4, 2), name, "black", font)
        draw.text((LEFT + column * side + 4, 18), size, "black", font)
    top = HEAD
    for block in blocks:
        for name, cells in block:
            draw.text((4, top + 4), name, "black", font)
            for column, (picture, words) in enumerate(cells):
                if picture is not None:
                    sheet.paste(picture, (LEFT + column * side, top))
                draw.text((LEFT + column * side + 4, top + side), words, "black", font)
            top += side + LINE
        top += GAP
    return sheet


def _lines(
    pipeline: Any, picture: Image.Image, stops: Sequence[int], seed: int
) -> list[tuple[str, list[Cell]]]:
    """(name, cells) of each line; an empty cell says why it is empty."""
    decoded = [image for _, image in pipeline.decode_stops(pipeline.encode(picture)[0], stops, seed)]
    lines: list[tuple[str, list[Cell]]] = [
        ("tokens", [(picture, ""), *((image, f"{psnr(image, picture):.1f} dB") for image in decoded)])
    ]
    for codec in CODECS:
        cells: list[Cell] = [(None, "")]
        for stop in stops:
            found = encode_within(picture, TOKEN_BYTES * stop, codec)
            if found is None:
                cells.append((None, "none so small"))
            else:
                cells.append((found[0], f"{psnr(found[0], picture):.1f} dB, {found[1]} B"))
        lines.append((codec, cells))
    return lines
