"""A model card (Mitchell et al. 2019), generated entirely from a model's file and its rows."""

from __future__ import annotations

from typing import Any

from rheostat.attacks import ATTACKS
from rheostat.models.artifact import About
from rheostat.models.tunable import Tunable
from rheostat.models.zoo import Figure, Shipped
from rheostat.results.corrupted import ABOUT, corruption_table
from rheostat.results.flags import NAMES
from rheostat.results.labels import attacker_lines, attacks_label, eps_label, percent, point_label, worst_rows
from rheostat.results.row import Row
from rheostat.runtime.terminal import visible

NUMBERS = {
    *("clean_accuracy", "clean_bound", "robust_accuracy", "robust_bound", "measured_under", "split"),
    *("ece_before", "ece_after"),
}
"""The columns for a named point."""
AGAIN = "## Measure and train it again"
BRACKETS = "Brackets are exact 95 % intervals."


def card(
    model: Tunable, about: About, rows: list[Row], *, name: str, digest: str, shipped: Shipped | None = None
) -> str:
    """The card as Markdown. `rows` are the rows of this model; without any, the card says that none was measured.

    `shipped` is the model's entry in the index of packaged models, if it has one. The card then also shows the licence
    of the data, the commands that measure and train the model again and, without rows, the figures of the index.
    """
    recipe: dict[str, Any] = about.provenance.get("recipe", {})
    data, train, attack = (recipe.get(k, {}) for k in ("data", "train", "attack"))
    count = sum(p.numel() for p in model.parameters())
    parts = [
        f"# {name}\n",
        f"A classifier of {len(about.classes)} classes ({', '.join(about.classes[:12])}"
        f"{', …' if len(about.classes) > 12 else ''}) for images of {' × '.join(map(str, model.net.image))}, pixels "
        f"in [0, 1]. {count:,} parameters. Hash `{digest}`.\n",
        f"- Composition: `{model.method!r}`",
        f"- Network: `{model.net.spec}`",
        *(f"- Dial `{d.name}`: {_positions(d.values, d.low, d.high)}" for d in model.dials.values()),
        "",
        "## Training\n",
        f"Data: `{data.get('name') or about.provenance.get('dataset', 'unknown')}`, "
        f"{data.get('train_images') or 'all'} images, {train.get('epochs', '?')} epochs. Training attack: "
        f"{_attack(attack)}, {_threat(about)}.\n",
        *_training_flags(about),
        *([] if shipped is None else _data(shipped, about)),
        "## Measured\n",
    ]
    worst = worst_rows(rows)
    if not worst and shipped is not None and shipped.figures:
        parts += [
            "Measured on test images. SA is standard accuracy. RA is the share of images still classified correctly "
            f"after the attacks in the table; a stronger attack can only lower it. {BRACKETS}\n",
            "| t | SA % | RA % | attacks | tier | split | n |",
            "|---|---|---|---|---|---|---|",
            *(_figure(f) for f in shipped.figures),
            "",
        ]
    elif not worst:
        parts.append("Nothing has been measured: run `rheostat evaluate`.\n")
    else:
        parts += [
            "SA, standard accuracy, is the share of images classified correctly. RA, robust accuracy, is the share "
            "still classified correctly after the attacks in the table, made at the same point; a stronger attack can "
            "only lower it. t is the position of the dial, from 0 (most accurate) to 1 (most robust); λ is its scale "
            f"before calibration. {BRACKETS}\n",
            "| point | SA % | RA % | attacks | tier | split | n | M MACs | raised |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        parts += [
            f"| {point_label(r)} | {percent(r.clean_accuracy, r.interval.clean)} | "
            f"{percent(r.robust_accuracy, r.interval.robust)} | {attacks_label(r)} "
            f"({r.attack.norm} {eps_label(r.attack.eps)}) | {r.tier} | {r.split} | {r.n} | {r.macs.mean / 1e6:.2f} | "
            f"{', '.join(r.flags) or 'none'} |"
            for r in worst
        ]
        parts.append("")
        parts += [f"- {line}" for line in attacker_lines(rows)]
        raised = sorted({f for r in rows for f in r.flags})
        parts += [f"- `{f}`: {NAMES[f].why}." for f in raised if f in NAMES]
        parts.append("")
    parts += _corrupted(rows)
    if model.points:
        parts += [
            "## Named points\n",
            "| name | point | clean % (bound) | robust % (bound) | measured under | ECE % |",
            "|---|---|---|---|---|---|",
        ]
        parts += [_named(k, p.label(), about.measured.get(k, {})) for k, p in model.points.items()]
        parts.append("")
    if shipped is not None:
        parts += _again(shipped, recipe)
    parts += [
        "## Limits\n",
        "- These accuracies are measured, not certified.",
        f"- The threat model is {_threat(about)}. Other norms, larger radii, patches, rotations and other attacks were "
        "not tested.",
        "- A client that can set the dial can choose the weakest point. Set the dial by policy, never from a request.",
        "",
    ]
    return visible("\n".join(parts), keep="\n\t")


def _threat(about: About) -> str:
    """The norm and the radius of the threat model: linf eps 8/255."""
    eps = about.threat.get("eps")
    return f"{about.threat.get('norm', '?')} eps {'?' if eps is None else eps_label(float(eps))}"


def _attack(section: dict[str, Any]) -> str:
    """The training attack of a recipe, with its number of steps if it has more than one."""
    kind = section.get("kind", "?")
    if kind in ATTACKS and "steps" not in ATTACKS.get(kind).uses:
        return f"{kind} (one step)"
    return f"{kind} with {section.get('steps', '?')} steps"


def _data(shipped: Shipped, about: About) -> list[str]:
    """The licence of the data set, and a note about the copy on which the model was trained."""
    note = about.provenance.get("data_note", "")
    return ["## Data\n", f"`{shipped.data}`; licence: {shipped.licence}.{f' {note}' if note else ''}\n"]


def _figure(f: Figure) -> str:
    return (
        f"| {f.robustness:g} | {percent(f.clean, f.clean_interval)} | {percent(f.robust, f.robust_interval)} | "
        f"{', '.join(f.attacks)} | {f.tier} | {f.split} | {f.n} |"
    )


def _again(shipped: Shipped, recipe: dict[str, Any]) -> list[str]:
    """The commands that measure and train a model again; DATA is the folder of the data sets."""
    lines = []
    for tier in dict.fromkeys(f.tier for f in shipped.figures):
        found = [f for f in shipped.figures if f.tier == tier]
        at = ",".join(f"{f.robustness:g}" for f in found)
        grid = "0:1:0.1" if tier == "quick" else at
        lines.append(
            f"rheostat evaluate {shipped.name} --tier {tier} --at robustness={grid} --examples {found[-1].n} "
            "--data-dir DATA"
        )
    threads = " --threads 1"  # on one thread the sums of a step are added in one order
    lines.append(f"rheostat train {recipe['name']} --out runs/{shipped.name} --data-dir DATA{threads}")
    return [f"{AGAIN}\n", "```console", *lines, "```\n"]


def _corrupted(rows: list[Row]) -> list[str]:
    """The table of common corruptions, if they were measured."""
    found = corruption_table(rows)
    if found is None:
        return []
    head, body = found
    lines = [head, ["---"] * len(head), *body]
    # A card describes one model, so the column with its name is left out.
    return ["## Common corruptions\n", f"{ABOUT}\n", *(f"| {' | '.join(line[1:])} |" for line in lines), ""]


def _training_flags(about: About) -> list[str]:
    """One line for each flag that training raised."""
    raised = about.provenance.get("flags", [])
    lines = [f"- Raised in training: `{f}`, {NAMES[f].raised_if}." for f in raised if f in NAMES]
    return [*lines, ""] if lines else []


def _positions(values: tuple[float, ...] | None, low: float, high: float) -> str:
    return ", ".join(f"{v:g}" for v in values) if values else f"{low:g} … {high:g}"


def _named(name: str, label: str, m: dict[str, Any]) -> str:
    if not m.keys() >= NUMBERS:
        return f"| `{name}` | {label} | | | not measured | |"
    label += f", {m['precision']}" if "precision" in m else ""
    return (
        f"| `{name}` | {label} | {100 * m['clean_accuracy']:.1f} (≥ {100 * m['clean_bound']:.1f}) | "
        f"{100 * m['robust_accuracy']:.1f} (≥ {100 * m['robust_bound']:.1f}) | {', '.join(m['measured_under'])} on "
        f"{m['split']} | {100 * m['ece_before']:.1f} → {100 * m['ece_after']:.1f} |"
    )
