"""The section of docs/appendix on a server under production arrivals, and the picture of one replay."""

from __future__ import annotations

from collections import defaultdict

from markdown import table
from matplotlib.figure import Figure
from plain import Row
from replay_goals import DEFAULT, goals, shortfall

from rheostat.reports.dial_plots import COLOURS
from rheostat.results.labels import percent

POLICIES = ("goodput", "goodput, no floor written", "slack", "steps")
PATIENT = ("goodput, no floor written", "steps")
"""They change the point only after half a second of late batches; a simulated window is shorter than that."""
FRONT = (
    "Client, protocol and model share the cores of one machine, and latency counts from the arrival in the trace. "
    "The server counts from the last bytes that it reads of a request. Its controllers see the wait for the event "
    "loop, but not that in the socket. In a burst, other threads need the cores too, and passes take longer than those "
    "measured at the start; admission allows for the mean deviation of recent passes. Nothing announces a burst, so "
    "its first requests find the worker at a slow point.\n"
)
Key = tuple[str, str, float]


def section(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """(the section, claims); empty where nothing was replayed."""
    if not rows:
        return "", []
    groups: dict[Key, dict[str, Row]] = defaultdict(dict)
    for r in rows:
        if "policy" in r:
            groups[r["how"], r["trace"], r["load"]][r["policy"]] = r
    first = rows[0]
    parts = [
        "## A server under load (`python benchmarks/measure/serve_trace.py`)\n",
        "Arrivals are those of the Azure LLM inference traces of 2023 (code, conversation) and of a Poisson process. "
        "They are rescaled so that a load of 1 is what the ladder's first point can carry. *Effective accuracy* is the "
        "share of images that are answered correctly within the deadline, which is five times the first point's time "
        f"for one request. The attack {first['attack']}, made at the point that answers, hits "
        f"{percent(first['attacked_share'])} % of the requests. The simulation uses each point's SA and RA for every "
        "image, and its controllers know them. A simulated window lasts less than half a second, so it does not "
        "compare the policies that change the point only after half a second of late batches (`steps`, and a floor "
        "that is not written).\n",
        "`only X` is the same server with one point, with admission control. The oracle knows all arrivals in advance. "
        f"RA is measured under {first['attack']} alone, on {first['test_images']} test images. Times are those of one "
        f"thread of {first['hardware']['device']}, on a machine that other jobs share.\n",
        _ladder(first),
    ]
    claims: list[list[str]] = []
    for how, text in (("simulated", "### Simulated queue, measured times\n"), ("live", "### Over HTTP\n")):
        found = {k: v for k, v in groups.items() if k[0] == how}
        if found:
            row = next(iter(next(iter(found.values())).values()))
            parts += [text, _about(row), *([_ladder(row)] if row["ladder"] != first["ladder"] else []), _table(found)]
            if how == "live":
                parts.append(FRONT)
            claims += _claims(found) if how == "live" else []
        if how == "simulated":
            text, more = goals(rows)
            parts += [text, shortfall(rows)]
            claims += more
    parts.append("![One replay over time](../serve_trace.png)\n")
    return "\n".join(parts), claims


def ladder(rows: list[Row]) -> str:
    """What a ladder gains, for README: its ends, and the code trace at 1.5 times what its first point carries."""
    group = {r["policy"]: r for r in rows if (r["how"], r["trace"], r["load"]) == ("simulated", "code", 1.5)}
    if not group:
        return ""
    used, first = group[DEFAULT], _fixed(group)[0]
    names, points = list(used["ladder"]), list(used["ladder"].values())
    slow, fast = points[0], points[-1]
    body = [
        [name, f"{p['ms']['1']:.2f}", percent(p["clean_accuracy"]), percent(p["robust_accuracy"])]
        for name, p in ((f"`{names[0]}`", slow), (f"`{names[-1]}`", fast))
    ]
    return (
        f"A ladder of this recipe, on {used['test_images']} test images (RA under `{used['attack']}`):\n\n"
        + table(["point", "ms per image", "SA %", "RA %"], body)
        + f"\nAt {used['load']:g} times the load that the first point can serve, the ladder answers "
        f"{percent(used['effective_clean'])} % of clean images correctly and in time;\nthe first point alone answers "
        f"{percent(first['effective_clean'])} % ([measured times, simulated queue](docs/appendix/deployment.md"
        "#a-server-under-load-python-benchmarksmeasureserve_tracepy)).\n"
    )


def _about(row: Row) -> str:
    return (
        f"Images per request: {row['images_per_request']}. The first point carries {row['capacity']:.0f} requests per "
        f"second. The deadline is {row['deadline_ms']:.2f} ms.\n"
    )


def _ladder(row: Row) -> str:
    body = []
    for name, point in row["ladder"].items():
        at = " ".join(f"{k}={v:g}" for k, v in point["at"].items())
        one, *_, most = point["ms"].items()
        cells = [percent(point[f"{k}_accuracy"]) for k in ("clean", "robust")]
        body.append([name, at, *cells, f"{one[1]:.2f}", f"{most[1] / int(most[0]):.2f}"])
    return table(["point", "dials", "SA", "RA", "ms, one image", "ms per image, largest batch"], body)


def _fixed(group: dict[str, Row]) -> list[Row]:
    return [r for name, r in group.items() if name.startswith("only ")]


def _best(group: dict[str, Row]) -> Row:
    """The fixed point with the highest effective accuracy on clean images, chosen in hindsight."""
    return max(_fixed(group), key=lambda r: r["effective_clean"])


def _table(groups: dict[Key, dict[str, Row]]) -> str:
    body = []
    for (how, trace, load), group in groups.items():
        left_out = PATIENT if how == "simulated" else ()
        shown = [group[p] for p in POLICIES if p in group and p not in left_out]
        safest, best = _fixed(group)[0], _best(group)
        shown += [safest] if safest is best else [safest, best]
        shown += [group["oracle"]] if "oracle" in group else []
        for r in shown:
            label = r["policy"] + (" (best fixed)" if r is best else "")
            points = ", ".join(f"{n} {100 * v:.0f}" for n, v in r["time_at"].items())
            body.append(
                [
                    trace,
                    f"{load:g}",
                    label,
                    percent(r["effective_clean"]),
                    percent(r["effective_attacked"]),
                    percent(r["slo"]),
                    percent(r["refused"]),
                    f"{r['p50_ms']:.1f} / {r['p99_ms']:.1f}",
                    f"{r['goodput']:.0f}",
                    points,
                ]
            )
    head = ["trace", "load", "policy", "effective SA", "effective RA", "in time, %", "503, %", "ms, p50 / p99"]
    return table([*head, "correct in time, per second", "time at each point, %"], body)


def _claims(groups: dict[Key, dict[str, Row]]) -> list[list[str]]:
    """The default controller over HTTP against the fixed points and the oldest controller."""
    below = [100 * (_best(g)["effective_clean"] - g[DEFAULT]["effective_clean"]) for g in groups.values()]
    old = [100 * (g[DEFAULT]["effective_clean"] - g["steps"]["effective_clean"]) for g in groups.values()]
    return [
        [
            f"effective accuracy (clean) within 1 point of the best fixed point's, over HTTP, {len(below)} replays",
            f"{sum(b <= 1 for b in below)} of {len(below)} replays; largest shortfall {max(below):+.1f} points",
            "met" if max(below) <= 1 else "not met",
        ],
        [
            f"effective accuracy (clean), `{DEFAULT}` minus `steps` (a step down after late batches), over HTTP",
            f"{min(old):+.1f} to {max(old):+.1f} points",
            "better" if min(old) > 0 else "not better in all replays",
        ],
    ]


def picture(rows: list[Row]) -> Figure | None:
    """One replay over time: arrivals, and the time and the point of each answer."""
    kept = [r for r in rows if "line" in r]
    if not kept:
        return None
    kept = [r for r in kept if r["how"] == kept[-1]["how"]]
    kept = [r for r in kept if (r["trace"], r["load"]) == (kept[0]["trace"], kept[0]["load"])]
    figure = Figure(figsize=(9.0, 2.2 * (len(kept) + 1)), layout="constrained")
    axes = figure.subplots(len(kept) + 1, 1, sharex=True)
    times = [at for at, _, _ in kept[0]["line"]]
    axes[0].hist(times, bins=120, color="0.6")
    axes[0].set_ylabel("arrivals")
    axes[0].set_title(f"{kept[0]['trace']}, load {kept[0]['load']:g}, {kept[0]['how']}", fontsize=10)
    colours = dict(zip(kept[0]["ladder"], COLOURS, strict=False))
    for panel, row in zip(axes[1:], kept, strict=True):
        for point, colour in colours.items():
            answered = [(at, 1e3 * took) for at, took, name in row["line"] if name == point]
            if answered:
                panel.plot(*zip(*answered, strict=True), ".", markersize=3, color=colour, label=point)
        refused = [at for at, _, name in row["line"] if name is None]
        panel.plot(refused, [0] * len(refused), "kx", markersize=4, label=f"503 ({len(refused)})")
        panel.axhline(row["deadline_ms"], color="black", linewidth=0.8, linestyle="--")
        panel.set_ylabel("ms to answer")
        panel.set_title(row["policy"], fontsize=9)
        panel.legend(fontsize=7, loc="upper right", ncols=6)
    axes[-1].set_xlabel("seconds")
    return figure
