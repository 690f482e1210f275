"""A hook of MkDocs: the theme's one request to the network becomes a script of our own.

Material's offline plugin asks a server for a script that lets the search work in pages opened as files;
`javascripts/worker_in_frame.js` does the same.
"""

from __future__ import annotations

import re
from typing import Any

from mkdocs.utils import get_relative_url

SCRIPT = "javascripts/worker_in_frame.js"
_FOREIGN = re.compile(r'<script src="https?://[^"]*/iframe-worker/shim"></script>')


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The page with the foreign script replaced."""
    return _FOREIGN.sub(f'<script src="{get_relative_url(SCRIPT, page.url)}"></script>', output)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """The same for pages without a source (404.html), which are served and need no such script."""
    return _FOREIGN.sub("", output_content)
