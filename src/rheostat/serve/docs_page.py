"""The page /docs: the OpenAPI document as plain HTML. It loads nothing and runs no script."""

from __future__ import annotations

import html
import json
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}pre{background:#eee;padding:1rem}"
)


def page(schema: dict[str, Any]) -> str:
    """Render an OpenAPI document as HTML: each operation with its input and its answers, then the schemas."""
    about = schema["info"]
    parts = [f"<h1>{_text(about['title'])}</h1><p>{_text(about.get('description', ''))}</p>"]
    parts.append('<p>Machine-readable version: <a href="openapi.json">openapi.json</a></p>')
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2>{_text(method.upper())} {_text(path)}</h2><p>{_text(operation.get('summary', ''))}</p>")
            parts += [
                f"<p>?{_text(given['name'])}: {_text(given.get('description', ''))}</p>"
                for given in operation.get("parameters", ())
            ]
            kinds = operation.get("requestBody", {}).get("content", {})
            if kinds:
                parts.append(f"<p>Takes {_text(', '.join(kinds))}</p>")
            answers = operation.get("responses", {})
            rows = "".join(f"<li>{_text(code)}: {_text(a.get('description', ''))}</li>" for code, a in answers.items())
            parts.append(f"<ul>{rows}</ul>")
    shapes = schema.get("components", {}).get("schemas", {})
    parts += [
        f"<h2>{_text(name)}</h2><pre>{_text(json.dumps(shape, indent=1))}</pre>" for name, shape in shapes.items()
    ]
    return f'<!doctype html><meta charset="utf-8"><title>Rheostat</title><style>{STYLE}</style>{"".join(parts)}'


def _text(value: object) -> str:
    return html.escape(str(value))
