"""Pictures as frames of a video."""

from PIL import Image


def middle_crop(picture: Image.Image, width: int, height: int) -> Image.Image:
    """The largest middle part of the wanted aspect, resized."""
    scale = min(picture.width / width, picture.height / height)
    half_width, half_height = width * scale / 2, height * scale / 2
    x, y = picture.width / 2, picture.height / 2
    box = (x - half_width, y - half_height, x + half_width, y + half_height)
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
