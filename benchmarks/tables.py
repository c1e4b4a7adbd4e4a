"""Re-makes docs/results.md and README's table from the rows alone: `python benchmarks/tables.py`."""

from __future__ import annotations

import itertools
from pathlib import Path

import believing
import conditioning
import multi_exit
import needs
import study
from pages import cell, find, table

from rheostat.files import write_bytes, write_text
from rheostat.intervals import paired, reversals
from rheostat.labels import worst_rows
from rheostat.report import as_bytes, trade_off
from rheostat.rows import Row, read_bits, read_rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DEDICATED = (0.0, 0.2, 1.0)
SHOWN = ("pgd-at-0", "pgd-at-0.2", "pgd-at-1", "oat-fashion", "dual-fashion")


def against_dedicated(rows: list[Row], run: str, prefix: str = "") -> tuple[str, bool | None]:
    """The comparison at each λ with "at-0": the mean of SA and RA, and domination by paired intervals.

    The verdict is None where a row is missing.
    """
    body, met = [], True
    for level in DEDICATED:
        ours = next((r for r in find(rows, run, "at-0") if r["at"]["robustness"] == level), None)
        theirs = next(iter(find(rows, f"{prefix}pgd-at-{level:g}", None)), None)
        if ours is None or theirs is None:
            return "", None
        mean = [(r["clean_accuracy"] + r["robust_accuracy"]) / 2 for r in (ours, theirs)]
        a, b = read_bits(RESULTS, ours), read_bits(RESULTS, theirs)
        clean, robust = paired(a[0], b[0]), paired(a[1], b[1])
        dominated = (clean[2] < 0 and robust[1] <= 0 and robust[0] <= 0) or (
            robust[2] < 0 and clean[1] <= 0 and clean[0] <= 0
        )
        holds = mean[0] >= mean[1] - 0.015 and not dominated
        met &= holds
        body.append(
            [f"{level:g}", *cell(ours), *cell(theirs), f"{100 * (mean[0] - mean[1]):+.1f}",
             f"{100 * clean[0]:+.1f} [{100 * clean[1]:+.1f}, {100 * clean[2]:+.1f}]",
             f"{100 * robust[0]:+.1f} [{100 * robust[1]:+.1f}, {100 * robust[2]:+.1f}]",
             "met" if holds else "not met"]
        )  # fmt: skip
    head = ["λ", f"{run} SA", f"{run} RA", "dedicated SA", "dedicated RA", "(SA+RA)/2",
            "SA difference, paired", "RA difference, paired", "bar"]  # fmt: skip
    return table(head, body), met


def along(rows: list[Row], run: str, rule: str | None) -> str:
    """One line a point, and what EVALUATION's "monotone" says of the curve."""
    found = find(rows, run, rule)
    body = [[f"{r['at']['robustness']:g}", *cell(r)] for r in found]
    bits = [read_bits(RESULTS, r) for r in found]
    # SA must fall: a reversal of the negated curve is a rise.
    rises = reversals([~c for c, _ in bits])
    falls = reversals([r for _, r in bits])
    jumps = [
        (b["robust_accuracy"] - a["robust_accuracy"])
        / (b["at"]["robustness"] - a["at"]["robustness"])
        for a, b in itertools.pairwise(found)
    ]
    text = table(["λ" if rule else "t", "SA", "RA"], body)
    text += f"\nSA falls: {'yes' if not rises else 'no, it rises after place ' + str(rises)}; "
    text += f"RA rises: {'yes' if not falls else 'no, it falls after place ' + str(falls)} "
    text += "(no adjacent reversal whose paired 95 % interval excludes 0). "
    if rule is None:
        text += f"Largest RA jump: {10 * max(jumps):.1f} points per 0.1 of the dial."
    return text + "\n"


def speed() -> str:
    """The rows of `make bench`."""
    body = []
    for r in read_rows(RESULTS / "speed.jsonl"):
        q = r["ratio"]
        bar = f"≤ {r['bar']}" if r.get("bar") else ""
        bar = f"≥ {r['bar_at_least']}" if r.get("bar_at_least") else bar
        body.append(
            [r["name"], r["a"], r["b"], f"{q['median']:.3f} [{q['low']:.3f}, {q['high']:.3f}]",
             f"{r['predicted']:.2f}" if r.get("predicted") else "", str(r["n"]), bar,
             f"{r['images_per_second']:.0f}" if r.get("images_per_second") else "",
             f"{100 * r['outside_share']:.1f} %" if "outside_share" in r else "",
             f"{r['peak_mebibytes']:.0f}" if "peak_mebibytes" in r else ""]
        )  # fmt: skip
    head = ["what", "a", "b", "ratio, median [quartiles]", "passes predict", "n", "bar", "images/s",
            "outside forward and backward", "peak MiB (process)"]  # fmt: skip
    return table(head, body)


def costs() -> str:
    """The rows of `benchmarks/costs.py`."""
    found = read_rows(RESULTS / "costs.jsonl")
    counts = [[r["of"], f"{r['value'] / 1e6:.3f} M"] for r in found if "value" in r]
    body = [
        [r["name"], str(r["batch"]), f"{r['ratio']['median']:.3f} [{r['ratio']['low']:.3f}, {r['ratio']['high']:.3f}]",
         f"{r['milliseconds'][r['a']][1]:.2f}", f"{r['milliseconds'][r['b']][1]:.2f}",
         f"≤ {r['bar']}" if r.get("bar") else "", verdict(r["ratio"]["median"], r.get("bar"))]
        for r in found if "ratio" in r
    ]  # fmt: skip
    head = ["folded latency", "batch", "ratio of medians [of quartiles]", "ms", "of ms", "bar", ""]
    return (
        "## Costs (`python benchmarks/costs.py`)\n\n"
        + table(["parameters, ResNet-34", ""], counts) + "\n" + table(head, body)
    )  # fmt: skip


def exports(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """Every composition × network: parity of fold and file, and what folding costs."""
    if not rows:
        return "", []
    body = [
        [r["net"], r["composition"], *(f"{r['ratio'][b]:.3f}" for b in ("1", "32")),
         *(f"{r['milliseconds']['32'][k]:.1f}" for k in ("eager", "folded", "plain", "ONNX Runtime")),
         f"{r['folded_gap']:.0e}", f"{r['onnx_gap']:.0e}"] for r in rows
    ]  # fmt: skip
    ratios = sorted(r["ratio"]["32"] for r in rows)
    over = sum(v > 1.02 for v in ratios)
    worst = max(r["onnx_gap"] for r in rows)
    found = [
        [f"folded ÷ plain ≤ 1.02, {len(rows)} compositions × networks, batch 32",
         f"median {ratios[len(ratios) // 2]:.3f}, {over} above, most {ratios[-1]:.3f}", "met" if not over else "not met"],
        ["ONNX Runtime within 1e-4 of the model, the same", f"{worst:.1e}", "met" if worst <= 1e-4 else "not met"],
    ]  # fmt: skip
    head = ["network", "composition", "folded ÷ plain, batch 1", "batch 32", "ms of 32: eager", "folded", "plain",
            "ONNX Runtime", "folded gap", "ONNX gap"]  # fmt: skip
    text = (
        "## Folded and exported (`python benchmarks/exports.py`)\n\nThe robust end, the last exit, width 1; the plain "
        "backbone is folded the same way. Gaps are of the largest logit.\n\n"
    )
    return text + table(head, body), found


def verdict(value: float, bar: float | None) -> str:
    """met, not met, or nothing where there is no bar."""
    return "" if bar is None else ("met" if value <= bar else "not met")


def speed_claims() -> list[list[str]]:
    """FLOAT's training time against OAT and PGD-AT, from `make bench`."""
    found = []
    for r in read_rows(RESULTS / "speed.jsonl"):
        if not r["name"].endswith(": step time"):
            continue
        value = r["ratio"]["median"]
        if r["a"] == "oat":
            found.append([f"FLOAT trains faster than FiLM conditioning, ≥ 1.6× ({r['name']})",
                          f"{value:.2f}×", "met" if value >= 1.6 else "not met"])  # fmt: skip
        else:
            found.append([f"FLOAT's step ÷ PGD-AT's, ≤ 0.75 ({r['name']})", f"{value:.2f}",
                          "met" if value <= 0.75 else "not met"])  # fmt: skip
    return found


def claims(rows: list[Row], more: list[list[str]], dial_met: bool, widths_met: bool,
           volumes: dict[str, tuple[float, float, float]]) -> str:  # fmt: skip
    """Every claim of the papers that a row here speaks to."""
    body = speed_claims()
    values = {r["of"]: r["value"] for r in read_rows(RESULTS / "costs.jsonl") if "value" in r}
    float_ = values["float"]
    for name, count in values.items():
        if name.startswith("oat"):
            body.append([f"FLOAT has 1.47× fewer parameters (ResNet-34; {name})", f"{count / float_:.2f}×",
                         "met" if count / float_ >= 1.47 else "not met"])  # fmt: skip
    for r in read_rows(RESULTS / "costs.jsonl"):
        if r.get("bar"):
            value = r["ratio"]["median"]
            body.append([f"{r['name']}, batch {r['batch']}, ≤ {r['bar']}", f"{value:.3f}", verdict(value, r["bar"])])  # fmt: skip
    for name, (value, low, high) in volumes.items():
        body.append([f"hypervolume over dedicated models: {name}", f"{value:.3f} [{low:.3f}, {high:.3f}]",
                     "better" if low > 1 else "worse" if high < 1 else "not told apart"])  # fmt: skip
    body.append(["no RA jump above 15 points per 0.1 of the calibrated dial (five methods)", "see below",
                 "met" if dial_met else "not met"])  # fmt: skip
    body.append(["each width within 2 points of a model of that width", "see below",
                 "met" if widths_met else "not met"])  # fmt: skip
    body += more
    return "## Claims and bars\n\n" + table(["claim", "measured", ""], body)


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
    return [r for n in names for r in read_rows(RESULTS / f"{n}.jsonl")]


def main() -> None:
    rows = load()
    first = worst_rows(rows)[0]
    comparison, met = against_dedicated(rows, "oat-fashion")
    seconds = {r["run"]: r["train"]["seconds"] for r in rows if r["train"]["seconds"]}
    smart, smart_claims = conditioning.smart(rows)
    volumes, found_volumes = conditioning.volumes(rows, RESULTS)
    dials, dials_met = conditioning.continuity(rows)
    widths, widths_met = conditioning.widths(rows)
    cost_rows = read_rows(RESULTS / "costs.jsonl")
    static, static_claims = multi_exit.against_static(
        rows, RESULTS, {"MNIST, SmallCNN": ("rdi-mnist", "static-mnist"),
                        "Fashion-MNIST, ResNet-20": ("rdi-fashion", "static-fashion"),
                        "CIFAR-10 subset, ResNet-20 of width 8": ("c10-rdi", "c10-static")},
    )  # fmt: skip
    tiers, tier_claims = believing.tiers(read_rows(RESULTS / "believe.jsonl"))
    serving, serving_claims = believing.serving(read_rows(RESULTS / "serve.jsonl"))
    timing, timing_claims = multi_exit.latency(read_rows(RESULTS / "exit-latency.jsonl"))
    others, other_claims = study.alternatives(rows, RESULTS)
    exported, export_claims = exports(read_rows(RESULTS / "exports.jsonl"))
    cifar_table, cifar_met = against_dedicated(rows, "c10-oat", "c10-")
    verdicts = {"Fashion-MNIST": met, "CIFAR-10 subset": cifar_met}
    dedicated_claims = [
        [f"OAT against dedicated models at λ = 0, 0.2, 1: mean of SA and RA, and domination ({name})", "see below",
         "not yet run" if v is None else "met" if v else "not met"] for name, v in verdicts.items()
    ]  # fmt: skip
    smart_lines = [["SMART: ≥ 2.72× fewer non-zeros, within 1.5 points of OAT (" + a + ")", b, c]
                   for a, b, c in smart_claims]  # fmt: skip
    parts = [
        "# Results\n\nWritten by `python benchmarks/tables.py` from the rows in "
        "`benchmarks/results/`; no figure here was typed. Brackets are exact 95 % intervals; "
        "differences are paired on the same images.\n",
        claims(rows, dedicated_claims + smart_lines + static_claims + timing_claims + tier_claims + serving_claims + export_claims + other_claims, dials_met, widths_met, found_volumes),
        study.surprises(rows, read_rows(RESULTS / "believe.jsonl"), read_rows(RESULTS / "alphas.jsonl"),
                        read_rows(RESULTS / "exit-latency.jsonl"), other_claims),
        f"## OAT, dual and dedicated models on Fashion-MNIST\n\nOne net (ResNet-8, width 16), "
        f"{first['train']['images']} training images, {first['train']['epochs']} epochs, PGD-2 in "
        f"training, eps {first['attack']['eps']:g}; measured by PGD-20 on {first['n']} test images, "
        f"seed {first['seed']}, training seed {first['train']['seed']}, on {first['hardware']['device']}.\n",
        f"At each λ, rule \"at-0\" (bar: (SA + RA) / 2 not more than 1.5 points below the dedicated "
        f"model's, and no point dominated beyond paired intervals): **{'met' if met else 'not met'}**.\n",
        comparison,
        "![trade-off](trade_off.png)\n",
        "## OAT along λ, untrained values included (\"at-0\")\n",
        along(rows, "oat-fashion", "at-0"),
        "## The same with four cosine features instead of two (the code swings between λ = 0.4 and 1)\n",
        along(rows, "oat-fashion-d4", "at-0"),
        "## OAT along the calibrated dial\n",
        along(rows, "oat-fashion", None),
        "## dual (a dual norm and nothing else)\n",
        along(rows, "dual-fashion", None),
        conditioning.seeds(rows),
        volumes,
        others,
        study.cifar(rows),
        cifar_table and "### OAT against dedicated models there, rule \"at-0\"\n\n" + cifar_table,
        study.ablation(rows),
        study.options(rows, RESULTS),
        dials,
        smart,
        conditioning.ablation(rows),
        conditioning.densities(rows, cost_rows),
        widths,
        conditioning.noise(rows, RESULTS, read_rows(RESULTS / "alphas.jsonl")),
        static,
        timing,
        multi_exit.matrix(rows),
        multi_exit.three_dials(rows),
        tiers,
        believing.l2(read_rows(RESULTS / "l2.jsonl")),
        serving,
        exported,
        study.papers(rows),
        costs(),
        "## Training seconds, one thread (machine shared by other runs)\n",
        table(["run", "seconds"], [[k, f"{v:.0f}"] for k, v in seconds.items()]),
        "## Speed (`make bench`)\n",
        speed(),
    ]  # fmt: skip
    write_text(ROOT / "docs" / "results.md", "\n".join(parts))
    write_text(ROOT / "docs" / "which.md", needs.page(rows, RESULTS))
    readme = (ROOT / "README.md").read_text()
    head, _, rest = readme.partition("<!-- results -->\n")
    _, _, tail = rest.partition("<!-- end -->")
    write_text(ROOT / "README.md", f"{head}<!-- results -->\n{comparison}<!-- end -->{tail}")
    shown = [r for r in rows if r["rule"] is None and r["run"] in SHOWN]
    write_bytes(ROOT / "docs" / "trade_off.png", as_bytes(trade_off(shown), "png"))
    if shown_widths := [
        r
        for r in rows
        if r["run"] in ("oats-fashion", "float-slim-fashion") and r["rule"] == "at-0"
    ]:
        write_bytes(
            ROOT / "docs" / "widths.png", as_bytes(conditioning.pareto(shown_widths), "png")
        )
    print("wrote docs/results.md, docs/which.md, docs/trade_off.png and the table in README.md")


if __name__ == "__main__":
    main()
