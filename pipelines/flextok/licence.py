"""What a person has to know, and to agree to, before published weights are downloaded."""

from pathlib import Path
from typing import Any

PUBLISHED_OWNER = "EPFL-VILAB"
_TOKENIZER = """\
{name} is published by Apple and EPFL under the licence "Apple Machine Learning Research Model".
It allows non-commercial scientific research only: no commercial use, no product, no service.
The full text stands on the model's page: https://huggingface.co/{name}
Nothing of it comes with this project, and nothing has been downloaded yet."""
_GENERATOR = """\
{name} is published by EPFL. The licence of its weights stands on the model's page:
https://huggingface.co/{name}
It makes tokens for a FlexTok tokenizer, which is published by Apple and EPFL under the licence "Apple Machine
Learning Research Model": non-commercial scientific research only, no commercial use, no product, no service.
For texts it needs a T5 encoder, whose licence stands on its own page. Agreeing counts for all three.
Nothing of them comes with this project, and nothing has been downloaded yet."""
_OTHER = """\
{name} is not part of this project. Its licence stands on the model's page:
https://huggingface.co/{name}
Read it first: nothing has been downloaded yet."""
PATTERNS = ["*.json", "*.yaml", "*.safetensors", "LICENSE*", "README.md"]
_HUB_OPTIONS = ("revision", "cache_dir", "token")


class LicenceNotAccepted(ValueError):
    """A download was asked for without agreeing to the licence; the message is the notice."""


def licence_notice(name: str) -> str:
    """What to show before downloading the hub model `name` ("owner/model")."""
    text = _OTHER
    if name.split("/")[0] == PUBLISHED_OWNER:
        kinds = {"flextok": _TOKENIZER, "flexar": _GENERATOR}
        text = next((notice for kind, notice in kinds.items() if kind in name.lower()), _OTHER)
    return text.format(name=name)


def download(name: str, accept_licence: bool, **options: Any) -> Path:
    """Fetch a hub model after its licence was accepted; the folder it lies in.

    Raises:
        LicenceNotAccepted: it wasn't; the message is the notice to show.
        ValueError: `name` isn't of the form "owner/model".
    """
    owner, _, model = name.partition("/")
    if not owner or not model or "/" in model:
        raise ValueError(f"{name!r} is neither a file or folder here nor a hub name like owner/model")
    if not accept_licence:
        raise LicenceNotAccepted(f"{licence_notice(name)}\nPass accept_licence=True to agree and download.")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=PATTERNS, **options))


def locate(name: str | Path, accept_licence: bool, options: dict[str, Any]) -> Path:
    """What is here under this path, or else the folder that the hub model of this name is downloaded into.

    Args:
        options: of a loader; those for the hub are taken out when it is asked.
    Raises:
        LicenceNotAccepted, ValueError: see `download`.
    """
    path = Path(name)
    if path.exists():
        return path
    hub = {key: options.pop(key) for key in _HUB_OPTIONS if key in options}
    return download(str(name), accept_licence, **hub)
