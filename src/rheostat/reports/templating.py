"""Render the HTML templates of this package; every inserted value is escaped."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from rheostat.runtime.terminal import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """Render a template of `rheostat/reports/templates`; a missing value is an error.

    The result may be inserted into another template without escaping.
    """
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(**values))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("rheostat.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    found.filters["code"] = code
    return found


def _shown(value: Any) -> Any:
    """Escape control characters in text, so that `cat page.html` cannot send them to a terminal."""
    from markupsafe import Markup

    return visible(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def code(text: str) -> Markup:
    """Escape a text and turn `backticks` into <code>."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
