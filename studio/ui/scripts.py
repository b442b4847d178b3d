"""How the page's own scripts (`assets/ui/js`) are called from Gradio's components."""

from __future__ import annotations

# relative to the page, so that it also works below a proxy's path
_PAGE = "import(new URL('studio/assets/js/page.js', document.baseURI).href)"


def on_load(function: str, handed: str = "", events: tuple[str, ...] = ()) -> str:
    """`js_on_load` that calls an exported function of page.js with the element.

    Args:
        function: For instance "mountEasel".
        handed: Names of what Gradio offers there to pass on: "props, watch, trigger".
        events: Names of events the script may trigger; Gradio only accepts names it finds in this text.
    """
    names = "".join(f"'{name}', " for name in events)
    door = f", {{ {handed}, events: [{names}] }}" if handed else ""
    return f"{_PAGE}.then((page) => page.{function}(element{door}))"


def on_click(function: str) -> str:
    """`js` of an event that calls an exported function of page.js."""
    return f"() => {{ {_PAGE}.then((page) => page.{function}()); }}"
