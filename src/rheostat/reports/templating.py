"""HTML from the templates of this room: everything that is put in is escaped."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from rheostat.runtime.terminal import visible

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


def render(template: str, **values: Any) -> Markup:
    """A template of `rheostat/reports/templates`, filled; a value that it lacks is an error.

    The result may be put into another template as it is.
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
    """A value as a page holds it: control characters of text are escapes, so that `cat page.html` obeys none."""
    from markupsafe import Markup

    return visible(value, keep="\n\t") if isinstance(value, str) and not isinstance(value, Markup) else value


def code(text: str) -> Markup:
    """Escaped text in which `these` are <code>."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))
