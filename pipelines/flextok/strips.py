"""Two strips of tokens made into one."""

from collections.abc import Iterable
from dataclasses import replace

from pipelines.flextok.token_file import TokenPicture


def splice(first: TokenPicture, second: TokenPicture, cut: int) -> TokenPicture:
    """The first `cut` tokens of one picture, then those of the other.

    Early tokens say what there is and where, later ones how it looks: the result has the layout of the first
    picture and details of the second, as far as they fit.

    Raises:
        ValueError: strips of different models or tilings, or a cut outside of both.
    """
    _check_kinship(first, second)
    shortest = min(first.count, second.count)
    if not 0 <= cut <= shortest:
        raise ValueError(f"cut is {cut}; both strips have tokens 0 to {shortest}")
    pairs = zip(first.tiles, second.tiles, strict=True)
    return replace(first, tiles=tuple(ours[:cut] + theirs[cut:] for ours, theirs in pairs))


def mix(first: TokenPicture, second: TokenPicture, places: Iterable[int]) -> TokenPicture:
    """The first picture with the tokens at `places` (from 0) taken from the other.

    Raises:
        ValueError: strips of different models or tilings, or places that one of them lacks.
    """
    _check_kinship(first, second)
    chosen, shortest = sorted(set(places)), min(first.count, second.count)
    if chosen and not 0 <= chosen[0] <= chosen[-1] < shortest:
        raise ValueError(f"places {chosen[0]} to {chosen[-1]}; both strips have 0 to {shortest - 1}")
    taken = set(chosen)
    tiles = tuple(
        tuple(theirs[place] if place in taken else ours[place] for place in range(first.count))
        for ours, theirs in zip(first.tiles, second.tiles, strict=True)
    )
    return replace(first, tiles=tiles)


def _check_kinship(first: TokenPicture, second: TokenPicture) -> None:
    for name in ("model", "levels", "grid"):
        ours, theirs = getattr(first, name), getattr(second, name)
        if ours != theirs:
            raise ValueError(f"these strips don't fit together: {name} {ours!r} and {theirs!r}")
