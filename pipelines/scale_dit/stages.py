"""The one rule that says at which sizes a picture is painted. Free of torch: forecasts use it, too."""

import math
from dataclasses import dataclass

MULTIPLE = 16
LEAST = 64
MAX_RATIO = 4
DENSE_LIMIT = 64  # tokens up to which every token sees every other: the base size of Storybook's models


@dataclass(frozen=True)
class Stage:
    """Size of one stage in pixels."""

    height: int
    width: int

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of 16 px tokens."""
        return self.height // MULTIPLE, self.width // MULTIPLE

    @property
    def tokens(self) -> int:
        return self.grid[0] * self.grid[1]


def size_problem(height: int, width: int) -> str | None:
    """None, or one sentence saying what is wrong with a size."""
    for name, value in (("width", width), ("height", height)):
        if value < LEAST or value % MULTIPLE:
            return f"{name} is {value} px; it must be a multiple of {MULTIPLE} and at least {LEAST}"
    return None


def plan_stages(height: int, width: int, base: int) -> tuple[Stage, ...]:
    """Sizes of all stages, smallest first, the last one being the picture's.

    The first stage has the picture's aspect ratio at about `base * base` pixels. Each further stage enlarges
    by at most 4 per side: fours first, then what is left; when what is left is under 2, it is shared evenly
    with the step before it (two steps of 2.4 rather than 4 and 1.4).

    Args:
        height, width: multiples of 16, at least 64 px.
        base: side in pixels of the square the model paints in one stage.
    Raises:
        ValueError: a size that can't be painted.
    """
    problem = size_problem(height, width)
    if problem:
        raise ValueError(problem)
    total = math.sqrt(height * width) / base
    if total <= 1.0:
        return (Stage(height, width),)
    first = Stage(_snap(height / total), _snap(width / total))
    # rounding to 16 px may have made one side smaller than intended: the larger of both ratios counts
    total = max(height / first.height, width / first.width)
    if total <= 1.0:
        return (first,)
    shares = _shares(total)
    heights = _enlarge(first.height, height, shares)
    widths = _enlarge(first.width, width, shares)
    return tuple(Stage(*size) for size in zip(heights, widths, strict=True))


def _snap(value: float) -> int:
    return max(LEAST, math.ceil(value / MULTIPLE - 0.5) * MULTIPLE)


def _shares(total: float) -> list[float]:
    """How far (in logarithms, 0 to 1) each stage but the first has come when a side grows `total` times."""
    ratios, rest = [], total
    while rest > MAX_RATIO * (1 + 1e-9):
        ratios.append(float(MAX_RATIO))
        rest /= MAX_RATIO
    if ratios and rest < 2.0:
        ratios[-1] = rest = math.sqrt(MAX_RATIO * rest)
    ratios.append(rest)
    return [math.log(math.prod(ratios[: count + 1])) / math.log(total) for count in range(len(ratios))]


def _enlarge(first: int, last: int, shares: list[float]) -> list[int]:
    """One side over all stages. Rounding to 16 px never makes a step larger than 4."""
    sides = [last]
    for share in reversed(shares[:-1]):
        least = math.ceil(sides[0] / (MAX_RATIO * MULTIPLE)) * MULTIPLE
        sides.insert(0, max(_snap(first * (last / first) ** share), least))
    return [first, *sides]
