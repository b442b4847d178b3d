"""Words of the Storybook world: what can be drawn, how it is called, and what lies outside it."""

import re
from collections.abc import Mapping

KINDS = (
    "apple", "ball", "bird", "boat", "book", "car", "cat", "chair",
    "cup", "fish", "flower", "house", "mushroom", "star", "tree", "umbrella",
)  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
PATTERNS = ("plain", "striped", "dotted")
SIZES = ("small", "large")
PLACES = ("meadow", "beach", "night sky", "snowy field", "desert", "room")
RELATIONS = ("left of", "right of", "above", "below")
COUNTS = ("one", "two", "three")

PLACE_PHRASES: Mapping[str, str] = {
    "meadow": "in a meadow",
    "beach": "on a beach",
    "night sky": "under a night sky",
    "snowy field": "in a snowy field",
    "desert": "in a desert",
    "room": "in a room",
}

# base colour in 8-bit RGB; the drawing code derives shade, light and outline from it
COLOUR_RGB: Mapping[str, tuple[int, int, int]] = {
    "red": (217, 52, 50),
    "orange": (242, 137, 38),
    "yellow": (248, 211, 60),
    "green": (62, 152, 74),
    "blue": (52, 108, 212),
    "purple": (143, 78, 190),
    "white": (246, 244, 238),
    "black": (50, 46, 56),
}

SYNONYMS: Mapping[str, str] = {
    "apples": "apple", "balls": "ball", "birds": "bird", "boats": "boat", "books": "book", "cars": "car",
    "cats": "cat", "chairs": "chair", "cups": "cup", "fishes": "fish", "flowers": "flower", "houses": "house",
    "mushrooms": "mushroom", "stars": "star", "trees": "tree", "umbrellas": "umbrella",
    "kitten": "cat", "kittens": "cat", "kitty": "cat", "automobile": "car", "auto": "car", "vehicle": "car",
    "ship": "boat", "sailboat": "boat", "mug": "cup", "teacup": "cup", "cottage": "house", "home": "house",
    "hut": "house", "toadstool": "mushroom", "parasol": "umbrella", "blossom": "flower", "rose": "flower",
    "sparrow": "bird", "stool": "chair", "novel": "book", "goldfish": "fish", "oak": "tree",
    "crimson": "red", "scarlet": "red", "golden": "yellow", "azure": "blue", "navy": "blue",
    "violet": "purple", "lilac": "purple", "emerald": "green", "tangerine": "orange", "ivory": "white",
    "ebony": "black",
    "stripy": "striped", "stripes": "striped", "spotted": "dotted", "dots": "dotted", "polka": "dotted",
    "tiny": "small", "little": "small", "big": "large", "huge": "large", "giant": "large",
    "field": "meadow", "grass": "meadow", "lawn": "meadow", "shore": "beach", "seaside": "beach",
    "sand": "beach", "night": "night sky", "sky": "night sky", "snow": "snowy field",
    "snowy": "snowy field", "winter": "snowy field", "dunes": "desert", "indoors": "room",
    "bedroom": "room", "2": "two", "3": "three",
}  # fmt: skip

# words that only tie a sentence together, or that captions use about position and motion
_GLUE = """
    a an the of to in on at under over and with is are be there this that it its which whose one two three
    left right above below beneath behind front next beside near between middle centre center side top bottom
    stands sits lies rests floats stays standing sitting lying picture scene drawing painting storybook
    shows showing we see can from for by also only plain no not very just some us as into has have here
    background place ground corner upper lower edge far close big bright calm quiet happening happens takes
    part coloured colored color colour colours size sized pattern patterns patterned looks look like small
    large first second third other another both object objects thing things story page set around
    drifts drift moves move moving falls fall falling bounces bounce turns turn turning grows grow growing
    slowly camera pans zooms up down towards away while
"""
# a number with a point or comma inside is one word: "2.5" counts nothing
_WORD = re.compile(r"\d+(?:[.,]\d+)+|[^\W_]+(?:'[^\W_]+)?", re.UNICODE)
KNOWN_WORDS = (
    frozenset(KINDS)
    | frozenset(COLOURS)
    | frozenset(PATTERNS)
    | frozenset(SIZES)
    | frozenset(COUNTS)
    | frozenset(word for place in PLACES for word in place.split())
    | frozenset(_GLUE.split())
)


def resolve(word: str) -> str:
    """Return the world's own word for `word` (synonyms replaced); unknown words come back in lower case."""
    word = word.lower()
    return word if word in KNOWN_WORDS else SYNONYMS.get(word, word)


def unknown_words(prompt: str) -> list[str]:
    """List the words of `prompt` that the Storybook world doesn't know, in order of appearance, each once."""
    seen: dict[str, None] = {}
    for word in _WORD.findall(prompt.lower()):
        if word not in KNOWN_WORDS and word not in SYNONYMS:
            seen.setdefault(word)
    return list(seen)


def canonical_prompt(prompt: str) -> str:
    """Replace synonyms by the world's own words; everything else stays as it was written."""

    def replace(match: re.Match[str]) -> str:
        word = match.group(0)
        if word.lower() in KNOWN_WORDS:
            return word
        return SYNONYMS.get(word.lower(), word)

    return _WORD.sub(replace, prompt)


def world_summary() -> str:
    """One line that tells a person what can be asked for."""
    return "; ".join(
        (
            ", ".join(KINDS),
            ", ".join(COLOURS),
            "striped or dotted, small or large, up to three",
            ", ".join(PLACE_PHRASES.values()),
            "left of, right of, above, below",
        )
    )
