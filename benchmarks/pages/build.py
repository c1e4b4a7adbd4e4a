"""Re-makes docs/results.md and README's table from the rows alone: `python benchmarks/pages/build.py`."""

from __future__ import annotations

from pathlib import Path

import believing
import claims
import conditioning
import multi_exit
import needs
import study
import surprises
from dedicated import against_dedicated, along
from markdown import contents, find, table
from plain import Row, read_rows_plain, typed

import training
from rheostat.reports.page import as_bytes, trade_off
from rheostat.runtime.files import write_bytes, write_text

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
OTHERS = ("speed", "costs", "believe", "serve", "exit-latency", "exports", "alphas", "l2", "margin")
"""Files of rows that are not evaluations along a dial."""
SHOWN = ("pgd-at-0", "pgd-at-0.2", "pgd-at-1", "oat-fashion", "dual-fashion")


def speed(rows: list[Row]) -> str:
    """The rows of `make bench`."""
    body = []
    for r in rows:
        q = r["ratio"]
        bar, holds = claims.bar(r)
        body.append(
            [
                r["name"],
                r["a"],
                r["b"],
                f"{q['median']:.3f} [{q['low']:.3f}, {q['high']:.3f}]",
                f"{r['predicted']:.2f}" if r.get("predicted") else "",
                str(r["n"]),
                bar,
                holds,
                f"{r['images_per_second']:.0f}" if r.get("images_per_second") else "",
                f"{100 * r['outside_share']:.1f} %" if "outside_share" in r else "",
                f"{r['peak_mebibytes']:.0f}" if "peak_mebibytes" in r else "",
            ]
        )
    head = [
        "what",
        "a",
        "b",
        "ratio, median [quartiles]",
        "passes predict",
        "n",
        "bar",
        "",
        "images/s",
        "outside forward and backward",
        "peak MiB (process)",
    ]
    return table(head, body)


def costs(found: list[Row]) -> str:
    """The rows of `benchmarks/measure/costs.py`."""
    counts = [[r["of"], f"{r['value'] / 1e6:.3f} M"] for r in found if "value" in r]
    body = [
        [
            r["name"],
            str(r["batch"]),
            f"{r['ratio']['median']:.3f} [{r['ratio']['low']:.3f}, {r['ratio']['high']:.3f}]",
            f"{r['milliseconds'][r['a']][1]:.2f}",
            f"{r['milliseconds'][r['b']][1]:.2f}",
            *claims.bar(r),
        ]
        for r in found
        if "ratio" in r
    ]
    head = ["folded latency", "batch", "ratio of medians [of quartiles]", "ms", "of ms", "bar", ""]
    return (
        "## Costs (`python benchmarks/measure/costs.py`)\n\n"
        + table(["parameters, ResNet-34", ""], counts)
        + "\n"
        + table(head, body)
    )


def exports(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """Every composition × network: parity of fold and file, and what folding costs."""
    if not rows:
        return "", []
    body = [
        [
            r["net"],
            r["composition"],
            *(f"{r['ratio'][b]:.3f}" for b in ("1", "32")),
            *(f"{r['milliseconds']['32'][k]:.1f}" for k in ("eager", "folded", "plain", "ONNX Runtime")),
            f"{r['folded_gap']:.0e}",
            f"{r['onnx_gap']:.0e}",
        ]
        for r in rows
    ]
    ratios = sorted(r["ratio"]["32"] for r in rows)
    over = sum(v > 1.02 for v in ratios)
    worst = max(r["onnx_gap"] for r in rows)
    found = [
        [
            f"folded ÷ plain ≤ 1.02, {len(rows)} compositions × networks, batch 32",
            f"median {ratios[len(ratios) // 2]:.3f}, {over} above, most {ratios[-1]:.3f}",
            "met" if not over else "not met",
        ],
        ["ONNX Runtime within 1e-4 of the model, the same", f"{worst:.1e}", "met" if worst <= 1e-4 else "not met"],
    ]
    head = [
        "network",
        "composition",
        "folded ÷ plain, batch 1",
        "batch 32",
        "ms of 32: eager",
        "folded",
        "plain",
        "ONNX Runtime",
        "folded gap",
        "ONNX gap",
    ]
    text = (
        "## Folded and exported (`python benchmarks/measure/exports.py`)\n\nThe robust end, the last exit, width 1; the plain "
        "backbone is folded the same way. Gaps are of the largest logit.\n\n"
    )
    return text + table(head, body), found


def load() -> list[Row]:
    """All rows of evaluations."""
    names = (
        "fashion",
        "conditioning",
        "masks",
        "exits",
        "exits-matrix",
        "mnist",
        "study",
        "ablation",
        "options",
        "paper",
    )
    return [r for n in names for r in read_rows_plain(RESULTS / f"{n}.jsonl")]


def filled(page: str, name: str, content: str) -> str:
    """A page with what stands between <!-- name --> and <!-- end --> exchanged."""
    head, _, rest = page.partition(f"<!-- {name} -->\n")
    _, _, tail = rest.partition("<!-- end -->")
    return f"{head}<!-- {name} -->\n{content}<!-- end -->{tail}"


def main() -> None:
    rows = load()
    read = {n: read_rows_plain(RESULTS / f"{n}.jsonl") for n in OTHERS}
    comparison, met = against_dedicated(rows, RESULTS, "oat-fashion")
    volumes, found_volumes = conditioning.volumes(rows, RESULTS)
    dials, dials_met = conditioning.continuity(rows)
    widths, widths_met = conditioning.widths(rows)
    smart, smart_claims = claims.smart(rows)
    static, static_claims = claims.exits(rows, RESULTS)
    tiers, tier_claims = believing.tiers(read["believe"])
    serving, serving_claims = believing.serving(read["serve"])
    timing, timing_claims = multi_exit.latency(read["exit-latency"])
    others, other_claims = study.alternatives(rows, RESULTS)
    equal, equal_claims = study.equal_attacks(rows, RESULTS, read["speed"])
    strong, strong_claims = study.stronger(rows)
    # The reference is an SA: that of the dedicated networks' own rows.
    margin = [r for r in rows if "pgd-at" in r["run"]] + [r for r in read["margin"] if "pgd-at" not in r["run"]]
    later = study.alternatives(margin, RESULTS)[1] + study.equal_attacks(margin, RESULTS, read["speed"])[1]
    exported, export_claims = exports(read["exports"])
    cifar_table, _ = against_dedicated(rows, RESULTS, "c10-oat", dedicated="c10-pgd-at-{}")
    seconds = {r["run"]: r["train"]["seconds"] for r in rows if r["train"]["seconds"]}
    volume_claims = [
        [
            f"area over dedicated networks' ({k})",
            f"{v:.3f} [{low:.3f}, {high:.3f}]",
            "better" if low > 1 else "worse" if high < 1 else "not told apart",
        ]
        for k, (v, low, high) in found_volumes.items()
    ]
    dial_claims = [
        [
            "no RA jump above 15 points per 0.1 of the calibrated dial (five methods)",
            "see below",
            "met" if dials_met else "not met",
        ]
    ]
    width_claims = [
        ["each width within 2 points of a network of that width", "see below", "met" if widths_met else "not met"]
    ]
    width_claims += [
        claims.timed(f"{r['name']}, batch {r['batch']}", r)
        for r in read["costs"]
        if r.get("bar") and "width" in r["name"]
    ]
    step_claims = [
        claims.timed(f"OAT's training step ÷ what its passes predict ({r['name'].partition(':')[0]})", r)
        for r in read["speed"]
        if r["a"] == "oat" and r["name"].endswith("measured ÷ predicted")
    ]
    sweep_claims = [
        claims.timed("eleven points in one sweep ÷ eleven Foolbox runs, digits", r)
        for r in read["speed"]
        if r["a"] == "foolbox"
    ]
    sections = {
        "OAT and OATS (Wang et al., NeurIPS 2020)": claims.oat(rows, RESULTS) + width_claims + step_claims,
        "FLOAT and FLOATS (Kundu et al., WACV 2023)": claims.float_(rows, RESULTS, read["speed"], read["costs"]),
        "SMART (Kundu et al., ICASSP 2023)": smart_claims,
        "RDI-Nets (Hu et al., ICLR 2020)": static_claims + timing_claims,
        "Better than what a user would do instead (area under the dial, square points)": claims.beaten(
            [c for c in other_claims if "twice" not in c[0]] + equal_claims
        ),
        "The dial (ours)": dial_claims + volume_claims,
        "Evaluation and shipping (ours)": tier_claims + strong_claims + sweep_claims + serving_claims + export_claims,
    }
    surprised = surprises.section(
        surprises.time(equal_claims),
        surprises.two_networks(other_claims),
        surprises.noise(other_claims + equal_claims, read["alphas"]),
        surprises.pgd20(read["believe"]),
        surprises.masks(rows),
        surprises.latency(rows, read["exit-latency"]),
        surprises.widths(read["speed"]),
    )
    first = find(rows, "oat-fashion", "at-0")[0]
    parts = [
        claims.page(sections),
        surprised,
        "## Every dial of the study\n\nA curve is one network; dotted ones had twice the epochs. An interval is about ± 3 points (± 2 at 2 000 images), and paired differences are far sharper: the tables below have them.\n\n![dials](study.png)\n",
        others,
        equal,
        study.orders(other_claims + equal_claims, later),
        strong,
        f"## OAT, dual and dedicated models on Fashion-MNIST\n\nOne net (ResNet-8, width 16), "
        f"{first['train']['images']} training images, {first['train']['epochs']} epochs, PGD-2 in "
        f"training, eps {first['attack']['eps']:g}; measured by PGD-20 on {first['n']} test images, "
        f"seed {first['seed']}, training seed {first['train']['seed']}, on {first['hardware']['device']}.\n",
        f'At each λ, rule "at-0" (bar: (SA + RA) / 2 not more than 1.5 points below the dedicated '
        f"model's, and no point dominated beyond paired intervals): **{'met' if met else 'not met'}**.\n",
        comparison,
        "![trade-off](trade_off.png)\n",
        '## OAT along λ, untrained values included ("at-0")\n',
        along(rows, RESULTS, "oat-fashion", "at-0"),
        "## The same with four cosine features (the code swings between λ = 0.4 and 1)\n",
        along(rows, RESULTS, "oat-fashion-d4", "at-0"),
        "## OAT along the calibrated dial\n",
        along(rows, RESULTS, "oat-fashion", None),
        "## dual (a dual norm and nothing else)\n",
        along(rows, RESULTS, "dual-fashion", None),
        conditioning.seeds(rows),
        volumes,
        study.cifar(rows),
        '### OAT against dedicated models there, rule "at-0"\n\n' + cifar_table,
        training.ablation(rows),
        training.options(rows, RESULTS),
        dials,
        smart,
        conditioning.ablation(rows),
        conditioning.densities(rows, read["costs"]),
        widths,
        conditioning.noise(rows, RESULTS, read["alphas"]),
        static,
        timing,
        multi_exit.matrix(rows),
        multi_exit.three_dials(rows),
        tiers,
        believing.l2(read["l2"]),
        serving,
        exported,
        study.state(),
        study.papers(rows),
        costs(read["costs"]),
        "## Training seconds, one thread (machine shared by other runs)\n",
        table(["run", "seconds"], [[k, f"{v:.0f}"] for k, v in seconds.items()]),
        "## Speed (`make bench`)\n",
        speed(read["speed"]),
    ]
    head = (
        "# Results\n\nWritten by `python benchmarks/pages/build.py` from the rows in "
        "`benchmarks/results/`; no figure here was typed. Brackets are exact 95 % intervals; "
        "differences are paired on the same images. [Which method for which need](which.md) is the short way in.\n"
    )
    parts = [head, contents(parts), *parts]
    write_text(ROOT / "docs" / "results.md", "\n".join(parts))
    write_text(ROOT / "docs" / "which.md", needs.page(rows, RESULTS))
    readme = (ROOT / "README.md").read_text()
    readme = filled(readme, "results", comparison)
    readme = filled(readme, "finding", surprises.time(equal_claims) + "\n")
    write_text(ROOT / "README.md", readme)
    shown = [r for r in rows if r["rule"] is None and r["run"] in SHOWN]
    write_bytes(ROOT / "docs" / "trade_off.png", as_bytes(trade_off([typed(r) for r in shown]), "png"))
    if shown_widths := [r for r in rows if r["run"] in ("oats-fashion", "float-slim-fashion") and r["rule"] == "at-0"]:
        write_bytes(ROOT / "docs" / "widths.png", as_bytes(conditioning.pareto(shown_widths), "png"))
    if (every := study.picture(rows)) is not None:
        write_bytes(ROOT / "docs" / "study.png", as_bytes(every, "png"))
    print("wrote docs/results.md, docs/which.md, the pictures beside them and the table in README.md")


if __name__ == "__main__":
    main()
