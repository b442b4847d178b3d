"""Model cards of the embedded weights, written from the manifest so that no figure can differ from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

CARD = "README.md"
DATA = (
    "Scenes of the Storybook world, drawn by this project's own code (`pipelines/storybook`): 16 kinds of "
    "objects, 8 colours, 3 patterns, 6 places, with captions, boxes and relations that are exact. No "
    "downloaded pictures or texts. A tenth of the colour and kind pairs is never drawn in training; figures "
    "called held out are taken on those."
)
LIMITS = (
    "It knows nothing outside that world, in any language but simple English, and is made for pictures of "
    "drawings, not of people or photographs."
)
PURPOSE = {
    "storybook-clip": "Scores how well a Storybook picture fits a caption; the preference model of "
    "LongAlign.",
    "storybook-eyes": "Finds objects in Storybook pictures with kind, colour, pattern and box: badges, "
    "verification and filters of the studio.",
    "storybook-flextok": "Turns Storybook pictures of 128 px into 1 to 256 ordered tokens, of which every "
    "prefix is a picture, and text into such tokens; `FlexTokPipeline` and `FlexARPipeline` open it.",
    "storybook-flux": "Paints Storybook scenes from text; stock diffusers loads it as `FluxPipeline`, "
    "`ScaleDiTPipeline` paints any size with it.",
    "storybook-judge": "A second detector, of another architecture and seed, that only reports metrics and "
    "never selects or trains.",
    "storybook-sd": "Paints Storybook scenes from text at 128 px; stock diffusers loads it as "
    "`StableDiffusionPipeline`.",
    "storybook-texture": "Tells the fine texture of an empty place in 4096 px pictures from no texture: an "
    "instrument for measuring detail.",
    "storybook-video": "Films Storybook scenes from text, clip after clip: layers along time over "
    "`storybook-sd`, which has to lie beside it; `VidRDPipeline` opens both as one.",
}


def card(name: str, entry: Mapping[str, Any]) -> str:
    """The card of a manifest entry: purpose, data, size, cost, figures, limits, licence.

    Raises:
        ValueError: nobody has written down what the model is for.
    """
    if name not in PURPOSE:
        raise ValueError(
            f"no card can be written for {name}: say what it is for in PURPOSE of "
            f"pipelines/storybook/cards.py, which knows {', '.join(sorted(PURPOSE))}"
        )
    licence = entry["license"].lower()
    head = f"---\nlicense: {licence}\nlibrary_name: diffusers\ntags: [tessera, storybook]\n---\n"
    rows = [f"| {path} | {value} |" for path, value in sorted(_flat(entry["metrics"]))]
    cost = [f"- {path}: {value}" for path, value in sorted(_flat(entry["recipe"]))]
    parts = (
        f"# {name}\n\n{PURPOSE[name]}",
        f"Class `{entry['class']}`, weights in half precision.",
        f"## Data\n\n{DATA}",
        "## Training\n\n" + "\n".join(cost),
        "## Measured\n\n| figure | value |\n|---|---|\n" + "\n".join(rows),
        f"## Limits\n\n{LIMITS}",
        f"## Licence\n\n{entry['license']}, code, data and weights alike.",
    )
    return head + "\n" + "\n\n".join(parts) + "\n"


def write_card(folder: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Put the card beside the weights."""
    (folder / CARD).write_text(card(name, entry), encoding="utf-8")


def _flat(table: Any, path: str = "") -> list[tuple[str, str]]:
    """Leaves with their path; a figure with its interval counts as one leaf, without a unit it is a share."""
    if isinstance(table, Mapping) and "value" in table:
        if "ci95" in table:
            form, unit = ("", f" {table['unit']}".rstrip()) if "unit" in table else (".1%", "")
            low, high = (format(end, form) for end in table["ci95"])
            value = format(table["value"], form)
            return [(path, f"{value}{unit} (95 %: {low} to {high}, n = {table['n']})")]
        return [(path, f"{table['value']} {table.get('unit', '')} (n = {table['n']})")]
    if isinstance(table, Mapping):
        return [leaf for key, value in table.items() for leaf in _flat(value, f"{path} / {key}".lstrip("/ "))]
    return [(path, str(table))]
