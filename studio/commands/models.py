"""`models list` and `models verify`."""

from __future__ import annotations

import argparse
from typing import Any

from studio.commands.console import print_json
from studio.doors import painting
from studio.registry import ModelCard, Registry
from studio.settings import Settings


def list_models(arguments: argparse.Namespace) -> int:
    """Print every known model."""
    cards = _registry(Settings.from_env()).cards()
    if arguments.json:
        print_json({"models": [_card_facts(card) for card in cards]})
        return 0
    if not cards:
        print("No models found.")
    for card in cards:
        also = f" (also: {', '.join(card.aliases)})" if card.aliases else ""
        size = f"{card.size_bytes / 1e6:.1f} MB"
        print(f"{card.name:24} {card.state:8} {size:>10}  {card.family}  {card.license}{also}")
    return 0


def verify_models(arguments: argparse.Namespace) -> int:
    """Read the models' files: 0 when all are whole, 1 when not."""
    registry = _registry(Settings.from_env())
    cards = (
        [registry.card(name, verify=True) for name in arguments.names]
        if arguments.names
        else registry.cards(verify=True)
    )
    if arguments.json:
        print_json({"models": [_card_facts(card) for card in cards]})
    elif not cards:
        print("No models found.")
    else:
        for card in cards:
            print(f"{card.name}: {card.state}")
            for problem in card.problems:
                print(f"  {problem}")
    return 0 if cards and all(card.state == "ok" for card in cards) else 1


def _registry(settings: Settings) -> Registry:
    return Registry(settings, painting.PipelinePainter())


def _card_facts(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "aliases": list(card.aliases),
        "state": card.state,
        "problems": list(card.problems),
        "class": card.family,
        "license": card.license,
        "bytes": card.size_bytes,
        "paints": card.paints,
        "folder": str(card.folder),
    }
