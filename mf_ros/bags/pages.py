"""HTML pages of reports: one style and one way to draw figures for all of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from mf_ros.errors import require_package

jinja2 = require_package("jinja2", extra="bags")

_SHARED = Path(__file__).with_name("templates")


@lru_cache(maxsize=8)
def page_template(path: Path) -> Any:
    """The template in a file, which may use ``style.html`` and ``figure.html``."""
    # Names in a report come from recordings of strangers, hence the escaping.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(path.name)
