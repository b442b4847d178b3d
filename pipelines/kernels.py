"""Import name of the top-level `kernels` folder: `from pipelines.kernels.hilbert.order import token_order`.

The folder itself must never be a package called `kernels`: the Hub's `kernels` distribution has that name,
and transformers and diffusers import it as soon as a compatible version is installed. A module with a
`__path__` serves the same files under `pipelines.kernels` and leaves the top-level name free.
"""

from pathlib import Path

_MARKER = Path("hilbert", "curve.py")
_HERE = Path(__file__).resolve().parent

# Beside an installed `pipelines` a folder of that name would be somebody else's: only ours counts.
_folder = _HERE.parent / "kernels"
__path__ = [str(_folder)] if (_folder / _MARKER).is_file() else []

if not __path__:
    raise ImportError(f"the kernels folder is missing: expected {_MARKER} under {_folder}")
