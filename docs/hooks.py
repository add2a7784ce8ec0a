"""What the site needs of MkDocs beyond its plugins: no page asks the network for anything."""

import re
from typing import Any

_SHIM = re.compile(r'<script src="https://unpkg.com/iframe-worker/shim"></script>')


def on_post_page(output: str, **_: Any) -> str:
    """Without the script by which the theme would let pages opened from disk search; served pages do not need it."""
    return _SHIM.sub("", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """The same in pages that are templates alone (404)."""
    return _SHIM.sub("", output_content)
