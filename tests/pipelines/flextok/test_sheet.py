"""The sheet of reconstructions: what stands in its cells, and that nothing is left unnamed."""

import numpy as np

from pipelines.flextok.measures import encode_within
from pipelines.flextok.sheet import GAP, HEAD, LEFT, LINE, reconstruction_sheet


def cell(sheet, side, block, line, column):
    top = HEAD + block * (3 * (side + LINE) + GAP) + line * (side + LINE)
    left = LEFT + column * side
    return np.asarray(sheet)[top : top + side, left : left + side]


def words_under(sheet, side, block, line, column):
    top = HEAD + block * (3 * (side + LINE) + GAP) + line * (side + LINE) + side
    left = LEFT + column * side
    return (np.asarray(sheet)[top : top + LINE, left : left + side] < 128).any()


def test_tokens_stand_above_codecs_of_the_same_bytes(flextok, pictures):
    side, stops = 64, (1, 2, 4, 8, 16)
    squares = [picture.resize((side, side)) for picture in pictures]
    sheet = reconstruction_sheet(flextok, squares, seed=5)
    assert sheet.size == (LEFT + 6 * side, HEAD + 2 * (3 * (side + LINE) + GAP))
    for block, picture in enumerate(squares):
        assert np.array_equal(cell(sheet, side, block, 0, 0), np.asarray(picture))
        decoded = dict(flextok.decode_stops(flextok.encode(picture)[0], stops, 5))
        for column, stop in enumerate(stops, 1):
            assert np.array_equal(cell(sheet, side, block, 0, column), np.asarray(decoded[stop]))
            assert words_under(sheet, side, block, 0, column)
            for line, codec in ((1, "JPEG"), (2, "WEBP")):
                found = encode_within(picture, 2 * stop, codec)
                shown = cell(sheet, side, block, line, column)
                assert np.array_equal(shown, np.asarray(found[0])) if found else (shown == 255).all()
                assert words_under(sheet, side, block, line, column)  # its figure, or that there is none


def test_codecs_are_shown_where_they_fit(flextok, pictures, monkeypatch):
    """At 32 bytes no codec has a file; given room, both cells hold pictures of their own."""
    from pipelines.flextok import sheet as module

    monkeypatch.setattr(module, "TOKEN_BYTES", 200)
    drawn = reconstruction_sheet(flextok, [pictures[0]], seed=0)
    jpeg, webp = (cell(drawn, 64, 0, line, 5) for line in (1, 2))
    assert (jpeg < 255).any() and (webp < 255).any() and not np.array_equal(jpeg, webp)


def test_every_line_and_column_has_a_name(flextok, pictures):
    sheet = np.asarray(reconstruction_sheet(flextok, [pictures[0]], seed=0)) < 128
    for column in range(6):
        left = LEFT + column * 64
        assert sheet[:18, left : left + 64].any()
        assert sheet[18:HEAD, left : left + 64].any() == (column > 0)  # bytes; the original has none
    for line in range(3):
        top = HEAD + line * (64 + LINE)
        assert sheet[top : top + 20, :LEFT].any()
