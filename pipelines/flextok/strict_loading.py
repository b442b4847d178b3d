"""Models that are loaded from safetensors, and only when every tensor is there and none is left over."""

from typing import Any

from diffusers import ConfigMixin, ModelMixin

SHOWN = 12  # problems named in one message
__all__ = ["ConfigMixin", "ModelMixin", "StrictModel", "key_problems"]


def key_problems(problems: list[str]) -> str:
    """A readable list: the first dozen, and how many more there are."""
    more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return ", ".join(problems[:SHOWN]) + more


class StrictModel:
    """Mixed in before `ModelMixin`, whose own loading fills missing tensors with random numbers."""

    @classmethod
    def from_pretrained(cls, folder: Any, **options: Any) -> Any:
        """As diffusers' method, but safetensors only.

        Raises:
            ValueError: tensors are missing, unknown or of another shape (they are listed).
        """
        wants_info = options.pop("output_loading_info", False)
        options["use_safetensors"] = True
        model, info = super().from_pretrained(folder, output_loading_info=True, **options)  # type: ignore[misc]
        problems = [f"missing {name}" for name in info["missing_keys"]]
        problems += [f"unknown {name}" for name in info["unexpected_keys"]]
        problems += [f"misshapen {found[0]}" for found in info["mismatched_keys"]]
        if problems:
            raise ValueError(f"{folder} doesn't hold a {cls.__name__}: {key_problems(problems)}")
        return (model, info) if wants_info else model
