"""Sections of docs/appendix on exits: comparison with the static network, the defence matrix, three dials."""

from __future__ import annotations

from pathlib import Path

from markdown import cell, per_cent, signed, table
from plain import Row, read_bits, worst_rows

from rheostat.results.intervals import not_lower, paired

MARGIN = 0.015


def at_exit(rows: list[Row], run: str, scale: float, attacks: str | None = None) -> list[Row]:
    """Worst-case rows of a run at a position of its dial `exit`; `attacks` is a prefix of the first attack's name."""
    return [
        r
        for r in worst_rows(rows)
        if r["run"] == run and r["at"].get("exit") == scale and (attacks is None or r["attack"]["of"][0] == attacks)
    ]


def widest(rows: list[Row]) -> Row | None:
    """The row with the most attacks: the worst case over all forms."""
    return max(rows, key=lambda r: len(r["attack"]["of"]), default=None)


def saved(row: Row, key: str = "macs") -> float:
    """Share of the static network's MACs that a policy saves, with the heads of earlier exits counted."""
    return 1 - row[key]["mean"] / row["macs_static"] if key in row else float("nan")


def against_static(
    rows: list[Row], results: Path, pairs: dict[str, tuple[str, str]]
) -> tuple[str, dict[str, tuple[str, str]]]:
    """Each multi-exit network against its static twin: accuracy, and compute on clean and attacked images."""
    body, claims = [], {}
    for name, (run, static) in pairs.items():
        base = widest([r for r in worst_rows(rows) if r["run"] == static])
        if base is None:
            continue
        same = [r for r in at_exit(rows, run, 1.0) if (r["tier"], r["n"]) == (base["tier"], base["n"])]
        ours = widest(same)
        if ours is None:
            continue
        a, b = read_bits(results, ours), read_bits(results, base)
        clean, robust = paired(a[0], b[0]), paired(a[1], b[1])
        slow = next(iter(at_exit(rows, run, 1.0, f"{_steps(ours)}@slowdown")), None)
        shares = " ".join(f"{100 * s:.0f}" for s in ours["exit_shares"]["clean"])
        less = saved(ours)
        holds = not_lower(a[0], b[0], margin=MARGIN) and not_lower(a[1], b[1], margin=MARGIN)
        for label, row in (("static", base), (f"{name}, exit = 1", ours)):
            body.append(
                [
                    label,
                    *cell(row),
                    f"{row['macs']['mean'] / 1e6:.2f} M",
                    f"{100 * saved(row):.0f} %" if row is ours else "",
                    f"{100 * (1 - row['macs_papers_count'] / row['macs_static']):.0f} %" if row is ours else "",
                    _under_slowdown(slow) if row is ours and slow else "",
                    shares if row is ours else "",
                    ", ".join(row["attack"]["of"]),
                    str(row["n"]),
                ]
            )
        claims[name] = (
            f"{100 * less:.0f} % saved; SA {signed(*clean)}, RA {signed(*robust)}",
            "met" if less >= 0.3 and holds else "not met",
        )
    head = [
        "",
        "SA",
        "RA, worst case",
        "MACs per clean image",
        "saved",
        "saved, as the paper counts",
        "saved under slowdown",
        "clean images per exit, %",
        "attacks",
        "n",
    ]
    text = (
        "## Exits against the static net\n\nBoth networks are trained with attacks of equally many steps. The static "
        "network's training attack has one random start for each candidate of the multi-exit network's defence. In "
        "evaluation, the static network is attacked from more starts than the other has forms of attack. The cost of "
        "an image includes all exits that it passes. Version 1 of the tiers left images out of the cost under "
        "slowdown; its rows therefore show none.\n\n"
    )
    return text + table(head, body), claims


def _under_slowdown(row: Row) -> str:
    """The share saved under an attack on the cost; rows of version 1 left images out, so they show none."""
    return f"{100 * saved(row, 'macs_attacked'):.0f} %" if row["tier_version"] > 1 else "not measured again"


def _steps(row: Row) -> str:
    return str(row["attack"]["of"][0]).partition("@")[0]


def matrix(rows: list[Row]) -> str:
    """RA at exit = 1, by defence in training and form of attack."""
    trained = ("none", "main", "average", "max-average", "routed")
    tested = ("exit-6", "average", "max-average", "routed", "slowdown", "all")
    body, best = [], {}
    for defence in trained:
        found = at_exit(rows, f"rdi-{defence}", 1.0)
        if not found:
            continue
        line = [defence, per_cent(found[0]["clean_accuracy"])]
        for form in tested:
            row = next(
                (
                    r
                    for r in found
                    if (form == "all") == (len(r["attack"]["of"]) > 1)
                    and (form == "all" or r["attack"]["of"][0].endswith(f"@{form}"))
                ),
                None,
            )
            line.append("" if row is None else per_cent(row["robust_accuracy"]))
            if row is not None and form == "all":
                best[defence] = row["robust_accuracy"]
        body.append(line)
    if not body:
        return ""
    winner = max(best, key=lambda d: best[d]) if best else "none yet"
    head = ["trained with", "SA", *(f"RA, {'main exit' if t == 'exit-6' else t}" for t in tested)]
    text = (
        "## Defences against attacks on exits\n\nEach line is a ResNet-20 of width 8, trained on 6 000 images of "
        "Fashion-MNIST for 5 epochs. RA is measured under PGD-20 at exit = 1 (the fitted policy) on 200 test images; "
        "an interval is about ± 6.5 points. `all` is the worst case per example over all forms of attack. The highest "
        f"RA under `all` is that of **{winner}**.\n\n"
    )
    return text + table(head, body)


def three_dials(rows: list[Row]) -> str:
    """Robustness × width × exit in one network, on both data sets."""
    text = "## Three live dials in one network\n\nThe network has exits, widths and a dual norm (`rdi-slim-dual`).\n"
    head = ["robustness (t)", "width", "exit", "SA", "RA", "MACs per clean image"]
    for name, run in (("Fashion-MNIST", "three-dials"), ("CIFAR-10 subset", "c10-three-dials")):
        found = [r for r in worst_rows(rows) if r["run"] == run]
        body = [
            [
                f"{r['at']['robustness']:g}",
                f"{r['at']['width']:g}",
                f"{r['at']['exit']:g}",
                *cell(r),
                f"{r['macs']['mean'] / 1e6:.2f} M",
            ]
            for r in found
        ]
        if body:
            text += f"\n{name}, {found[0]['n']} images:\n\n" + table(head, body)
    return text


def latency(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """Real early exit against the static network, for each batch size."""
    body, claims = [], []
    for r in rows:
        q = r["ratio"]
        body.append(
            [
                r["name"],
                str(r["batch"]),
                f"{q['median']:.2f} [{q['low']:.2f}, {q['high']:.2f}]",
                f"{q['of_sums']:.2f}",
                *(f"{v:.2f}" for v in r["milliseconds"]),
                str(r["n"]),
            ]
        )
        if r["batch"] == 256:
            claims.append(
                [
                    f"{r['name']}: ≥ 25 % of batch-256 latency saved",
                    f"{100 * (1 - q['median']):.0f} %",
                    "met" if q["median"] <= 0.75 else "not met",
                ]
            )
    if not body:
        return "", []
    head = [
        *("", "batch", "early exit ÷ static, median [quartiles]", "ratio of summed times"),
        *("ms, early exit", "ms, static", "batches"),
    ]
    text = (
        "## Latency of real early exit (clean test images)\n\nImages leave the batch at their exit, so that later "
        "layers run on fewer images. The static network has no exits.\n\n"
    )
    return text + table(head, body), claims
