"""Words that the prompt parser knows: ways to say a relation, and what only looks like one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.compass.relations import (
    ABOVE,
    BEHIND,
    BELOW,
    BETWEEN,
    FRONT,
    INSIDE,
    LEFT,
    NEXT,
    ON_TOP,
    RIGHT,
)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = _words("one two three four five six seven eight nine ten several some many")
POSSESSIVES = _words("his her its their my your our")
DETERMINERS = ARTICLES | NUMBERS | POSSESSIVES | _words("another this that these those each no")
PRONOUNS = _words("it he she they him them")
POINTERS = _words("this that these those")
RELATIVE = _words("which that who")
NEGATIONS = _words("not never isn't aren't wasn't without cannot")

PREDICATE_PHRASES: dict[str, str] = {
    "over": ABOVE, "above": ABOVE, "on the top of": ABOVE, "at the top of": ABOVE,
    "atop": ON_TOP, "on top of": ON_TOP,
    "below": BELOW, "beneath": BELOW, "underneath": BELOW, "under": BELOW, "on the bottom of": BELOW,
    "at the bottom of": BELOW,
    "in front of": FRONT, "behind": BEHIND, "in back of": BEHIND,
    "beside": NEXT, "next to": NEXT, "near": NEXT, "close to": NEXT, "adjacent to": NEXT, "alongside": NEXT,
    "on the side of": NEXT, "on side of": NEXT, "by the side of": NEXT,
    "inside": INSIDE, "inside of": INSIDE, "within": INSIDE, "between": BETWEEN, "in between": BETWEEN,
}  # fmt: skip
_SIDES = (
    "{} of", "to the {} of", "on the {} of", "at the {} of", "to the {} side of", "on the {} side of",
    "on the {}-hand side of", "to the {}-hand side of", "{}-hand side of",
)  # fmt: skip
PREDICATE_PHRASES |= {form.format("left"): LEFT for form in _SIDES}
PREDICATE_PHRASES |= {form.format("right"): RIGHT for form in _SIDES}

# the frame of the picture: "on the left of the picture" places a thing, it doesn't relate two
PICTURES = _words(
    """
    photo photograph picture image painting drawing illustration sketch scene rendering render portrait view
    close-up closeup shot frame canvas watercolor watercolour photography artwork poster cartoon page
    """
)
# what a text about a picture names and no picture shows as a thing
FRAMES = PICTURES | _words(
    """
    pages pictures storybook story colours colors colour color background foreground part parts side corner
    edge edges place thing things
    """
)
VIEWERS = _words("camera viewer lens me us you")
POSITIONS: dict[str, str] = {
    "on the left": "left", "to the left": "left", "at the left": "left", "on the left side": "left",
    "on the right": "right", "to the right": "right", "at the right": "right", "on the right side": "right",
    "at the top": "top", "on the top": "top", "at the bottom": "bottom", "on the bottom": "bottom",
    "in the middle": "middle", "in the center": "middle", "in the centre": "middle",
}  # fmt: skip

VERBS = _words(
    """
    is are was were be being stands stand standing sits sit sitting lies lie lying rests rest resting floats
    float floating hangs hang hanging flies fly flying hovers hover hovering stays stay staying appears appear
    located placed positioned situated parked seen shown found set there has have looks look seems seem
    happens happen takes take
    """
)
COPULAS = _words("is are was were looks look seems seem has have")
# what these say of a thing, in one word
LOOKS: Mapping[str, str] = {"no pattern": "plain", "no patterns": "plain"}
ADVERBS = _words(
    "just directly immediately slightly far well high somewhere right exactly also currently very quite"
)
OPENERS = _words(
    """
    there is are we see you can i want show shows showing depicts depicting imagine draw paint create generate
    please make and then where while
    """
)
MODIFIERS = _words("with without wearing holding carrying made covered filled full from of like")
PLACE_PREPOSITIONS = _words("in on at during against across along through into by amid up")
SCENERY = _words("sky skies stars moon moonlight sun sunlight clouds rain snow water light lights")
# before scenery these words tell the place: "under a night sky"
SCENERY_LEADS = _words("under beneath below over above")
# nouns that say where it all happens, and how short captions put it: "a beach" is "on a beach"
PLACES: Mapping[str, str] = {
    "beach": "on", "shore": "on", "lawn": "on", "street": "on", "seaside": "at", "sky": "under",
    "meadow": "in", "field": "in", "desert": "in", "room": "in", "bedroom": "in", "kitchen": "in",
    "forest": "in", "garden": "in", "park": "in", "city": "in", "village": "in",
}  # fmt: skip
PLAIN_ADJECTIVES = _words(
    """
    small large big tiny little huge giant old young new tall short long red orange yellow green blue purple
    white black brown grey gray pink golden silver fluffy shiny wooden striped dotted round bright dark cute
    beautiful happy sad fat thin plain patterned spotted checkered quiet calm
    """
)
NOUNS_IN_ING = _words(
    """
    building painting ceiling clothing string wedding morning evening lightning earring drawing railing awning
    duckling sapling dumpling pudding swing spring fencing flooring helping offering wing king ring thing
    """
)

# what makes a predicate's words mean something else: the word right before, the one or two right after
NOT_AFTER: Mapping[str, frozenset[str]] = {
    "left of": _words("what what's whatever nothing little much all everything anything remains"),
    "over": _words("all turned bent hand game left"),
    "above": _words("the"),
    "right of": _words("the a by human"),
    "under": _words("down"),
}
NOT_BEFORE: Mapping[str, frozenset[str]] = {
    "above": frozenset({"all", "average", "zero", "and beyond", "ground", "suspicion"}),
    "below": _words("average zero freezing"),
    "over": frozenset({"there", "time", "exposed", "again", "here", "easy", "and over", "the shoulder"}),
    "under": _words("construction control attack pressure arrest repair water"),
    "right of": _words("way passage return appeal course center centre"),
    "left of": _words("center centre"),
    "behind": _words("schedule bars time"),
    "next to": _words("nothing none no"),
    "beside": _words("himself herself themselves itself"),
    "within": _words("reach sight minutes hours days seconds"),
    "inside": _words("out joke"),
    "between": _words("us them"),
}
_LONGEST = max(len(phrase.split()) for phrase in PREDICATE_PHRASES)
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]", re.UNICODE)


@dataclass(frozen=True)
class Token:
    """A word (in lower case) or a mark, and its characters in the prompt."""

    word: str
    start: int
    end: int

    @property
    def is_word(self) -> bool:
        return self.word[0].isalnum()


def tokenize(text: str) -> list[Token]:
    """Words and marks of a text."""
    return [
        Token(match.group().lower().replace("’", "'"), match.start(), match.end())
        for match in _TOKEN.finditer(text)
    ]


def longest_phrase(tokens: list[Token], at: int, phrases: Mapping[str, str]) -> tuple[str, int] | None:
    """(phrase, number of tokens) of the longest entry of `phrases` that begins at token `at`."""
    for count in range(min(_LONGEST, len(tokens) - at), 0, -1):
        phrase = " ".join(token.word for token in tokens[at : at + count])
        if phrase in phrases:
            return phrase, count
    return None
