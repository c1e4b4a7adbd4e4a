"""docs/models.md: the models that come with the package, read from their files."""

from __future__ import annotations

from markdown import table

from rheostat.models.artifact import digest, load_with, packaged


def page() -> str:
    """A row per model, and how to load one."""
    body = []
    for name, path in packaged().items():
        model, about = load_with(path)
        recipe = about.provenance.get("recipe", {})
        params = f"{sum(p.numel() for p in model.parameters()):,}"
        threat = f"{about.threat.get('norm', '?')}, eps {about.threat.get('eps', '?')}"
        data = str(recipe.get("data", {}).get("name", "?"))
        dials = ", ".join(model.dials)
        size = f"{path.stat().st_size / 1e6:.2f} MB"
        paper = str(recipe.get("paper", "?"))
        body.append([f"`{name}`", paper, data, dials, params, size, threat, f"`{digest(path)}`"])
    head = ["name", "composition", "data", "dials", "parameters", "file", "trained against", "hash"]
    return (
        "# Models\n\nThese come with the package and work offline:\n\n"
        + table(head, body)
        + "\n`rheostat info NAME` prints what a file holds. `rheostat evaluate NAME` measures it, and `rheostat card "
        "NAME` writes its model card. Written by `python benchmarks/pages/build.py` from the files themselves.\n\n"
        '```python\nimport rheostat\n\nmodel = rheostat.load("oat-digits")\nprint(model.dials)\n```\n\n'
        "`rheostat.save` writes a model of your own in the same format: one safetensors file that holds weights, "
        "architecture, composition, dials and calibration. Loading never runs code from the file.\n"
    )
