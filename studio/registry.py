"""Models this installation knows: what is there, whether it is whole, and the few that are loaded."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from studio.checks import shown
from studio.errors import StudioError
from studio.painter import Painter
from studio.requests import DEFAULT_MODEL
from studio.settings import Settings

ModelState = Literal["ok", "missing", "damaged"]
Ability = Literal["picture", "tokens", "video", "eyes"]
# a class named in a model folder or manifest is only ever looked up here, never imported by name
_ABILITIES: dict[str, Ability] = {
    "FluxPipeline": "picture",
    "ScaleDiTPipeline": "picture",
    "StableDiffusionPipeline": "picture",
    "LongAlignPipeline": "picture",
    "FlexTokPipeline": "tokens",
    "FlexARPipeline": "tokens",
    "VidRDPipeline": "video",
    "StorybookEyes": "eyes",
}
_DOES: dict[Ability, str] = {
    "picture": "paint pictures",
    "tokens": "turn pictures into tokens",
    "video": "make videos",
    "eyes": "look at pictures",
}
# what the short name means, by what is wanted
_STORYBOOK: dict[Ability, str] = {
    "picture": "storybook-flux",
    "tokens": "storybook-flextok",
    "video": "storybook-video",
    "eyes": "storybook-eyes",
}
_GENERATING: tuple[Ability, ...] = ("picture", "tokens", "video")
REPAIR = "Put the files back (`git restore assets/weights` in a clone), then try again."
_MAX_INDEX_BYTES = 1 << 20
# what weights of CoMPaSS carry beside them, and where an adapter of it lies in a model folder
_SIDECAR = "compass.json"
_ADAPTERS = ("compass-lora", "compass")


@dataclass(frozen=True)
class ModelCard:
    """One model as `models list` and the page show it.

    Args:
        name: What requests call it.
        folder: Where its files are.
        family: Pipeline or model class, "" when unknown.
        license: Licence of the weights, "" when unknown.
        size_bytes: Bytes on disk.
        state: "ok", "missing" or "damaged".
        problems: One sentence each; empty when ok.
        ability: What it can be asked for, None for parts and judges that nobody asks for anything.
        embedded: Whether it ships with the studio (its world is small and known).
        aliases: Other names requests may use.
        tenor: Folder of the weights in it that were trained with TENOR (its own, or an adapter's).
    """

    name: str
    folder: Path
    family: str
    license: str
    size_bytes: int
    state: ModelState
    problems: tuple[str, ...]
    ability: Ability | None
    embedded: bool
    aliases: tuple[str, ...] = ()
    tenor: Path | None = None

    @property
    def paints(self) -> bool:
        """Whether it can answer an `ImageRequest`."""
        return self.ability == "picture"


class Registry:
    """Lists, checks and loads models. Thread-safe; loading happens on the caller's thread.

    Args:
        settings: Says where models are and how many stay loaded.
        painter: Reads manifests, checks files, loads.
    """

    def __init__(self, settings: Settings, painter: Painter) -> None:
        self._settings = settings
        self._painter = painter
        self._loaded: OrderedDict[str, tuple[tuple[object, ...], Any]] = OrderedDict()
        self._verified: dict[str, tuple[tuple[object, ...], tuple[str, ...]]] = {}
        self._lock = threading.RLock()

    def cards(self, *, verify: bool = False) -> list[ModelCard]:
        """Every known model. `verify` reads all files; otherwise presence and sizes decide (a few ms)."""
        return [self._card(name, folder, entry, verify) for name, folder, entry in self._known()]

    def card(self, name: str, *, verify: bool = False) -> ModelCard:
        """The model called `name` (or by an alias), whatever it can do.

        Raises:
            StudioError: "unknown_model", listing the known ones.
        """
        wanted = _STORYBOOK["picture"] if name == DEFAULT_MODEL else name
        for found, folder, entry in self._known():
            if found == wanted:
                return self._card(found, folder, entry, verify)
        raise self._unknown(name, [name for name, _, _ in self._known()])

    def usable(self, name: str, ability: Ability) -> ModelCard:
        """The card of a model that can do what is wanted, now.

        Args:
            name: As a request names it; "storybook" is the embedded model of that ability.
            ability: What is wanted.
        Raises:
            StudioError: unknown, of another ability, not installed, missing or damaged.
        """
        wanted = _STORYBOOK[ability] if name == DEFAULT_MODEL else name
        able = [card for card in self.cards() if card.ability == ability]
        for card in able:
            if card.name == wanted:
                self._require_whole(card)
                return card
        if not able and ability != "picture":
            raise StudioError(
                "not_installed",
                f"No model that can {_DOES[ability]} is installed: {_STORYBOOK[ability]} does not come with "
                "this version yet.",
                "Name the folder of another in TESSERA_MODELS.",
            )
        names = [card.name for card in able]
        if any(found == wanted for found, _, _ in self._known()):
            listing = self._listing(names)
            raise StudioError("unknown_model", f"model: {wanted} can't {_DOES[ability]}, allowed {listing}.")
        raise self._unknown(name, names)

    def paintable(self, name: str) -> ModelCard:
        """The card of a model that can paint pictures now; see `usable`."""
        return self.usable(name, "picture")

    def has(self, ability: Ability) -> bool:
        """Whether a whole model with this ability is here."""
        return any(card.ability == ability and card.state == "ok" for card in self.cards())

    def load(
        self, name: str, ability: Ability = "picture", loader: Callable[[Path], Any] | None = None
    ) -> tuple[ModelCard, Any]:
        """A model ready to work; the least recently used one is let go when too many are loaded.

        Args:
            name: As a request names it.
            ability: What is wanted.
            loader: Opens the model's folder. Default: the painter's.
        Raises:
            StudioError: unknown, missing or damaged; a model loaded before stays loaded.
        """
        card = self.usable(name, ability)
        stamp = self._stamp(card.folder)
        with self._lock:
            kept = self._loaded.get(card.name)
            if kept and kept[0] == stamp:
                self._loaded.move_to_end(card.name)
                return card, kept[1]
        model = self.opened(card, loader or self._painter.load_model)
        with self._lock:
            self._loaded[card.name] = (stamp, model)
            self._loaded.move_to_end(card.name)
            while len(self._loaded) > self._settings.loaded_models:
                self._loaded.popitem(last=False)
        return card, model

    def opened(self, card: ModelCard, loader: Callable[[Path], Any]) -> Any:
        """A model opened from its folder after all its files were checked; the caller keeps it.

        Raises:
            StudioError: missing or damaged.
        """
        card = self.card(card.name, verify=True)
        self._require_whole(card)
        try:
            return loader(card.folder)
        except StudioError:
            raise
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise StudioError(
                "damaged_model", f"The model {card.name} can't be loaded ({reason}).", REPAIR
            ) from error

    def is_loaded(self, name: str) -> bool:
        """Whether work with the model of this name (no alias) starts without loading."""
        with self._lock:
            return name in self._loaded

    def _unknown(self, name: str, known: list[str]) -> StudioError:
        return StudioError("unknown_model", f"model: given {shown(name)}, allowed {self._listing(known)}.")

    def _listing(self, known: list[str]) -> str:
        """Names and the short name, for the end of a sentence."""
        defaults = {_STORYBOOK[ability] for ability in _GENERATING}
        names = known + ([DEFAULT_MODEL] if defaults & set(known) else [])
        return ", ".join(sorted(names)) or f"none (nothing found in {self._settings.weights_dir.name}/)"

    def _require_whole(self, card: ModelCard) -> None:
        if card.state == "missing":
            raise StudioError(
                "missing_model", f"The model {card.name} is missing: {card.problems[0]}", REPAIR
            )
        if card.state == "damaged":
            raise StudioError(
                "damaged_model", f"The model {card.name} is damaged: {card.problems[0]}", REPAIR
            )

    def _known(self) -> list[tuple[str, Path, dict[str, Any]]]:
        """(name, folder, manifest entry) of embedded models, then of further folders; first name wins."""
        weights = self._settings.weights_dir
        models = self._painter.read_manifest(weights).get("models", {})
        known = [(name, weights / entry.get("folder", name), entry) for name, entry in models.items()]
        names = {name for name, _, _ in known}
        for folder in self._settings.model_dirs:
            if folder.name not in names:
                known.append((folder.name, folder, {}))
                names.add(folder.name)
        return known

    def _card(self, name: str, folder: Path, entry: dict[str, Any], verify: bool) -> ModelCard:
        state, problems = self._state(folder, entry, verify)
        family = str(entry.get("class", "")) or _pipeline_class(folder)
        ability = _ABILITIES.get((_pipeline_class(folder) or family).rpartition(".")[2])
        is_default = ability in _GENERATING and name == _STORYBOOK[ability]
        return ModelCard(
            name=name,
            folder=folder,
            family=family,
            license=str(entry.get("license", "")),
            size_bytes=sum(size for _, size, _ in _files(folder)),
            state=state,
            problems=problems,
            ability=ability,
            embedded=bool(entry),
            aliases=(DEFAULT_MODEL,) if is_default else (),
            tenor=tenor_weights(folder) if ability == "picture" else None,
        )

    def _state(self, folder: Path, entry: dict[str, Any], verify: bool) -> tuple[ModelState, tuple[str, ...]]:
        if not folder.is_dir():
            return "missing", (f"there is no folder {folder.name}.",)
        listed = entry.get("files", {})
        problems = [text for path, facts in listed.items() if (text := _size_problem(folder, path, facts))]
        if not problems and verify:
            problems = list(self._verify(folder))
        return ("damaged", tuple(problems)) if problems else ("ok", ())

    def _verify(self, folder: Path) -> tuple[str, ...]:
        stamp = self._stamp(folder)
        with self._lock:
            known = self._verified.get(str(folder))
            if known and known[0] == stamp:
                return known[1]
        problems = tuple(f"{problem.rstrip('.')}." for problem in self._painter.verify_folder(folder))
        with self._lock:
            self._verified[str(folder)] = (stamp, problems)
        return problems

    def _stamp(self, folder: Path) -> tuple[object, ...]:
        """Changes with every file that loading reads; what was checked or loaded before counts no longer."""
        return tuple((str(place), *_files(place)) for place in (folder, *self._painter.lenders(folder)))


def _size_problem(folder: Path, path: str, facts: dict[str, Any]) -> str:
    try:
        size = (folder / path).stat().st_size
    except OSError:
        return f"file {path} is not there."
    expected = facts.get("bytes")
    return f"file {path} has {size} bytes instead of {expected}." if size != expected else ""


def _files(folder: Path) -> list[tuple[str, int, int]]:
    """(relative path, bytes, mtime ns) of every file, sorted."""
    found = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:
            continue
        if path.is_file():
            found.append((path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime_ns))
    return found


def tenor_weights(folder: Path) -> Path | None:
    """Where in a model folder the weights lie that were trained with TENOR; None without such weights.

    Nothing but the sidecar tells: an adapter of CoMPaSS has one, or the folder itself.
    """
    places = [folder / name for name in _ADAPTERS] + [folder]
    told = next((place for place in places if (place / _SIDECAR).is_file()), None)
    return told if told and _json_object(told / _SIDECAR).get("tenor") is True else None


def _pipeline_class(folder: Path) -> str:
    return str(_json_object(folder / "model_index.json").get("_class_name", ""))


def _json_object(path: Path) -> dict[str, Any]:
    """A small JSON file's object; {} for anything else."""
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            return {}
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
