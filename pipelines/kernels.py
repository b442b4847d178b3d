"""Import name of the top-level `kernels` folder: `from pipelines.kernels.hilbert.order import token_order`.

The folder itself must never be a package called `kernels`: the Hub's `kernels` distribution has that name, and
transformers and diffusers import it as soon as a compatible version is installed. A module with a `__path__`
serves the same files under `pipelines.kernels` and leaves the top-level name free.
"""

from pathlib import Path

_MARKER = Path("hilbert", "curve.py")
_HERE = Path(__file__).resolve().parent

# In a checkout the folder lies beside `pipelines`; an installed wheel carries it inside. Elsewhere a folder of
# that name belongs to somebody else, so only one that holds a file of ours counts.
_candidates = (_HERE.parent / "kernels", _HERE / "kernels")
__path__ = [str(folder) for folder in _candidates if (folder / _MARKER).is_file()]

if not __path__:
    raise ImportError(f"the kernels folder is missing: expected {_MARKER} under {_candidates[0]}")
