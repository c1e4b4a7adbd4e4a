"""Generates README's results, docs/results.md, its appendices, docs/which.md and all pictures from the rows alone.

`python benchmarks/pages/build.py` updates this repository; `--out DIR` writes DIR/README.md and DIR/docs/ instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import adopted
import appendix
import attack_times
import believing
import claims
import concepts
import conditioning
import dials_shipped
import exit_times
import fast
import latencies
import masks
import method_pages
import multi_exit
import needs
import pictures
import precisions
import progress
import readme
import replays
import rivals
import searches
import served_files
import squares
import study
import successive
import surprises
import timings
import variants
import verdict
import zoo_index
from dedicated import against_dedicated, along
from markdown import find, table
from plain import Row, read_rows_plain

import models
import results
import training
from rheostat.reports.dial_plots import as_bytes
from rheostat.results.rows import read_rows
from rheostat.runtime.files import write_bytes, write_text

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
OTHERS = (
    *("speed", "costs", "believe", "serve", "serve-trace", "exit-latency", "exports", "alphas", "l2", "margin"),
    *("variants", "precision", "rivals", "naive-segment", "adopted", "adopted-speed", "square"),
    *("runtimes", "precision-speed", "step-limit", "search", "fast", "attack-speed", "exit-runtimes", "files"),
    "training-flops",
)
"""Files whose rows are not evaluations along a dial."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT, help="folder of README.md and docs/; by default this repository"
    )
    build(parser.parse_args().out)


def build(out: Path) -> None:
    """Write README.md and docs/ into a folder."""
    rows = load()
    read = {n: read_rows_plain(RESULTS / f"{n}.jsonl") for n in OTHERS}
    comparison, met = against_dedicated(rows, RESULTS, "oat-fashion")
    volumes, found_volumes = conditioning.volumes(rows, RESULTS)
    dials, dials_met = conditioning.continuity(rows)
    widths, widths_met = conditioning.widths(rows)
    smart, smart_claims = claims.smart(rows)
    static, static_claims = claims.exits(rows, RESULTS)
    decided = verdict.lines(read["rivals"], RESULTS, rivals.METHODS)
    tiers, tier_claims = believing.tiers(read["believe"])
    serving, serving_claims = believing.serving(read["serve"])
    in_files, file_claims = served_files.section(read["files"], RESULTS)
    replayed, replay_claims = replays.section(read["serve-trace"])
    timing, timing_claims = multi_exit.latency(read["exit-latency"])
    exit_table, exit_claims = exit_times.section(read["exit-runtimes"])
    attack_table, attack_claims = attack_times.section(read["attack-speed"])
    others, other_claims = study.alternatives(rows, RESULTS)
    equal, equal_claims = study.equal_attacks(rows, RESULTS, read["speed"])
    strong, strong_claims = study.stronger(rows)
    # The reference is an SA: that of the dedicated networks' own rows.
    margin = [r for r in rows if "pgd-at" in r["run"]] + [r for r in read["margin"] if "pgd-at" not in r["run"]]
    later = study.alternatives(margin, RESULTS)[1] + study.equal_attacks(margin, RESULTS, read["speed"])[1]
    exported, export_claims = timings.exports(read["exports"])
    cifar_table, _ = against_dedicated(rows, RESULTS, "c10-oat", dedicated="c10-pgd-at-{}")
    seconds = {r["run"]: r["train"]["seconds"] for r in rows if r["train"]["seconds"]}
    volume_claims = [
        [
            f"area under the dial ÷ that of dedicated networks ({k})",
            f"{v:.3f} [{low:.3f}, {high:.3f}]",
            "better" if low > 1 else "worse" if high < 1 else "not significantly different",
        ]
        for k, (v, low, high) in found_volumes.items()
    ]
    dial_claims = [
        [
            "no RA jump above 15 points per 0.1 of the calibrated dial (five methods)",
            "[table](methods.md#is-the-dial-continuous)",
            "met" if dials_met else "not met",
        ]
    ]
    width_claims = [
        [
            "each width within 2 points of a network trained at that width alone",
            "[table](methods.md#widths)",
            "met" if widths_met else "not met",
        ]
    ]
    width_claims += [
        claims.timed(f"{r['name']}, batch {r['batch']}", r)
        for r in read["costs"]
        if r.get("bar") and "width" in r["name"]
    ]
    step_claims = [
        claims.timed(f"OAT's training step, measured ÷ predicted from its passes ({r['name'].partition(':')[0]})", r)
        for r in read["speed"]
        if r["a"] == "oat" and r["name"].endswith("measured ÷ predicted")
    ]
    sweep_claims = [
        claims.timed("time of eleven Foolbox runs ÷ that of one sweep over eleven points, digits", r)
        for r in read["speed"]
        if r["a"] == "foolbox"
    ]
    sections = {
        "OAT and OATS (Wang et al., NeurIPS 2020)": claims.oat(rows, RESULTS) + width_claims + step_claims,
        "FLOAT and FLOATS (Kundu et al., WACV 2023)": claims.float_(rows, RESULTS, read["speed"], read["costs"]),
        "SMART (Kundu et al., ICASSP 2023)": smart_claims,
        "RDI-Nets (Hu et al., ICLR 2020)": static_claims + timing_claims,
        "Against plain alternatives (area under the dial, square points)": claims.beaten(
            [c for c in other_claims if "twice" not in c[0]] + equal_claims
        ),
        "The dial (ours)": dial_claims + volume_claims,
        "Evaluation and shipping (ours)": tier_claims
        + strong_claims
        + sweep_claims
        + attack_claims
        + serving_claims
        + file_claims
        + replay_claims
        + export_claims
        + exit_claims,
    }
    full = surprises.section(
        surprises.time(equal_claims),
        surprises.two_networks(other_claims),
        surprises.noise(other_claims + equal_claims, read["alphas"]),
        surprises.pgd20(read["believe"]),
        surprises.masks(rows),
        surprises.latency(rows, read["exit-latency"]),
        surprises.widths(read["speed"]),
    )
    first = find(rows, "oat-fashion", "at-0")[0]
    zoo_timed = read_rows_plain(RESULTS / "zoo.jsonl")
    pages = {
        "claims": [claims.page(sections), full],
        "study": [
            "## Every dial of the study\n\nThe picture shows SA against RA under PGD-20 (tier `quick`) on test images. "
            "Each curve is one network; a dotted curve had twice the epochs. An interval is about ± 3 points (± 2 at "
            "2 000 images). Paired differences are more precise; the tables below give them, with n.\n\n"
            "![Every dial of the study](../study.png)\n",
            others,
            equal,
            study.orders(other_claims + equal_claims, later),
            strong,
            study.cifar(rows),
            '### OAT against dedicated models on the CIFAR-10 subset, rule "at-0"\n\n' + cifar_table,
        ],
        "fashion": [
            "## OAT, dual and dedicated models on Fashion-MNIST\n\nEach network is a ResNet-8 of width 16, trained "
            f"with PGD-2 at eps {first['attack']['eps']:g} on {first['train']['images']} images for "
            f"{first['train']['epochs']} epochs (training seed {first['train']['seed']}). RA is measured under PGD-20 "
            f"on {first['n']} test images (seed {first['seed']}), on {first['hardware']['device']}.\n",
            'The table compares OAT with a dedicated model at each λ, with the rule "at-0". The bar: (SA + RA) / 2 is '
            "at most 1.5 points below that of the dedicated model, and no point is dominated beyond the paired "
            f"intervals. Verdict: **{'met' if met else 'not met'}**.\n",
            comparison,
            '## OAT along λ, untrained values included ("at-0")\n',
            along(rows, RESULTS, "oat-fashion", "at-0"),
            "## The same with four cosine features (the code oscillates between λ = 0.4 and 1)\n",
            along(rows, RESULTS, "oat-fashion-d4", "at-0"),
            "## OAT along the calibrated dial\n",
            along(rows, RESULTS, "oat-fashion", None),
            "## dual (a dual norm and nothing else)\n",
            along(rows, RESULTS, "dual-fashion", None),
            conditioning.seeds(rows),
            volumes,
        ],
        "methods": [
            dials,
            smart,
            masks.ablation(rows),
            masks.densities(rows, read["costs"]),
            widths,
            conditioning.noise(rows, RESULTS, read["alphas"]),
            variants.variants(read["variants"], RESULTS),
            rivals.section(read["rivals"] + read["naive-segment"], RESULTS, decided),
        ],
        "exits": [static, timing, exit_table, multi_exit.matrix(rows), multi_exit.three_dials(rows)],
        "training": [
            training.ablation(rows),
            training.options(rows, RESULTS),
            searches.section(read["search"]),
            fast.timed(zoo_timed + read["fast"], read["training-flops"]),
            fast.ablation(read["fast"], RESULTS),
            successive.section(zoo_timed, RESULTS),
            precisions.section(read["precision"], RESULTS),
            precisions.attacks(read["precision"], RESULTS),
            latencies.steps(read["precision-speed"]),
            latencies.limits(read["step-limit"]),
            "## Training time (one thread, machine shared with other runs)\n\nNames are those of the queues in "
            "`benchmarks/queues/`. Other processes used the machine, so these times are not comparable.\n",
            table(["run", "seconds"], [[k, f"{v:.0f}"] for k, v in seconds.items()]),
            timings.speed(read["speed"]),
        ],
        "evaluation": [tiers, attack_table, squares.budget(read["square"], RESULTS), believing.l2(read["l2"])],
        "deployment": [
            serving,
            replayed,
            exported,
            latencies.runtimes(read["runtimes"]),
            in_files,
            timings.costs(read["costs"]),
            progress.state(),
            progress.papers(rows),
        ],
    }
    docs = out / "docs"
    write_shipped(out, rows)
    for name, parts in pages.items():
        write_text(docs / "appendix" / f"{name}.md", appendix.page(name, parts))
    found = results.Found(rows, RESULTS, sections, other_claims, equal_claims, read)
    zoo, zoo_rows = zoo_index.shipped(), read_rows(zoo_index.ROWS)
    write_text(docs / "results.md", results.page(found, appendix.contents(), dials_shipped.measured(zoo, zoo_rows)))
    write_text(docs / "which.md", needs.page(rows, decided, RESULTS))
    write_text(docs / "adopted.md", adopted.page(read["adopted"], read["adopted-speed"]))
    for name, text in method_pages.pages(rows + read["rivals"], RESULTS).items():
        write_text(docs / "methods" / f"{name}.md", text)
    picture = dials_shipped.caption(zoo, zoo_rows)
    write_text(out / "README.md", readme.page((ROOT / "README.md").read_text(), found, picture))
    if shown_widths := [r for r in rows if r["run"] in ("oats-fashion", "float-slim-fashion") and r["rule"] == "at-0"]:
        write_bytes(docs / "widths.png", as_bytes(pictures.widths(shown_widths), "png"))
    if (every := pictures.dials(rows)) is not None:
        write_bytes(docs / "study.png", as_bytes(every, "png"))
    if (replay := replays.picture(read["serve-trace"])) is not None:
        write_bytes(docs / "serve_trace.png", as_bytes(replay, "png"))
    if (compared := rivals.picture(read["rivals"])) is not None:
        write_bytes(docs / "rivals.png", as_bytes(compared, "png"))
    for name, draw in concepts.PICTURES.items():
        write_bytes(docs / "concepts" / f"{name}.png", as_bytes(draw(rows), "png"))
    print(f"wrote README.md, the generated pages of docs/ and their pictures into {out}")


def write_shipped(out: Path, rows: list[Row]) -> None:
    """Write the index of models that ship, their page and cards, the site's navigation, and README's picture."""
    zoo, measured = zoo_index.shipped(), read_rows(zoo_index.ROWS)
    write_text(out / zoo_index.INDEX, zoo_index.text(zoo))
    write_text(out / "zensical.toml", models.navigation((ROOT / "zensical.toml").read_text(), zoo))
    docs = out / "docs"
    write_text(docs / "models.md", models.page(zoo))
    for entry in zoo:
        file = ROOT / zoo_index.FOLDERS[entry.where] / entry.file
        write_text(docs / "models" / f"{entry.name}.md", models.card_page(entry, file, measured))
        if (drawn := dials_shipped.along_dial(entry, measured)) is not None:
            write_bytes(docs / "models" / f"{entry.name}.png", as_bytes(drawn, "png"))
    write_bytes(docs / "trade_off.png", as_bytes(dials_shipped.hero(zoo, measured, rows), "png"))


if __name__ == "__main__":
    main()
