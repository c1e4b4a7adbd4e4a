"""Sections of docs/appendix/evaluation.md (tiers, L2) and of docs/appendix/deployment.md (serving)."""

from __future__ import annotations

from markdown import cell, per_cent, table
from plain import Row


def tiers(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """RA and seconds of `quick`, `standard` and AutoAttack at the same points."""
    body, claims = [], []
    total = {"standard": 0.0, "autoattack": 0.0}
    gaps, flagged = [], set()
    for run in dict.fromkeys(r["run"] for r in rows):
        for at in sorted({r["at"]["robustness"] for r in rows if r["run"] == run}):
            here = [r for r in rows if r["run"] == run and r["at"]["robustness"] == at]
            standard = [r for r in here if r["tier"] == "standard"]
            quick = next((r for r in standard if r["attack"]["name"] == "pgd20"), None)
            worst = next((r for r in standard if r["attack"]["name"] == "worst"), None)
            auto = next((r for r in here if r["attack"].get("of") == ["autoattack"]), None)
            if quick is None or worst is None:
                continue
            flagged |= set(worst["flags"])
            body.append(
                [
                    run,
                    f"{at:g}",
                    per_cent(worst["clean_accuracy"]),
                    per_cent(quick["robust_accuracy"]),
                    cell(worst)[1],
                    "" if auto is None else cell(auto)[1],
                    f"{quick['seconds']:.0f}",
                    f"{worst['seconds']:.0f}",
                    "" if auto is None else f"{auto['seconds']:.0f}",
                    str(worst["n"]),
                    ", ".join(worst["flags"]) or "none",
                ]
            )
            if auto is not None:
                total["standard"] += worst["seconds"]
                total["autoattack"] += auto["seconds"]
                gaps.append(100 * (worst["robust_accuracy"] - auto["robust_accuracy"]))
    if not body:
        return "", []
    if gaps:
        ratio = total["standard"] / total["autoattack"]
        claims.append(
            [
                f"`standard` within 1 point of AutoAttack (at {len(gaps)} of 4 points)",
                f"largest difference {max(gaps):.1f} points",
                "met" if max(gaps) <= 1 else "not met",
            ]
        )
        claims.append(
            ["time of `standard` ÷ time of AutoAttack, ≤ 0.5", f"{ratio:.2f}", "met" if ratio <= 0.5 else "not met"]
        )
    head = [
        "run",
        "λ (at-0)",
        "SA",
        "RA quick",
        "RA standard",
        "RA AutoAttack",
        "seconds, quick",
        "seconds, standard",
        "seconds, AutoAttack",
        "n",
        "flags",
    ]
    text = (
        "## The tiers against AutoAttack\n\nThe table shows the RA of the same images under both tiers and under "
        "AutoAttack, and the seconds that each takes.\n\n"
    )
    return text + table(head, body), claims


def l2(rows: list[Row]) -> str:
    """The L2 recipe along its dial, and under `standard` at its ends."""
    worst = [r for r in rows if r["attack"]["name"] == "worst"]
    if not worst:
        return ""
    body = [
        [f"{r['at']['robustness']:g}", r["tier"], *cell(r), str(r["n"]), ", ".join(r["flags"]) or "none"] for r in worst
    ]
    eps = worst[0]["attack"]["eps"]
    text = (
        f"## L2, eps {eps:g}: `dual-l2-fashion`\n\nThe recipe is measured along its dial under `quick`, and at its "
        "ends under `standard`.\n\n"
    )
    return text + table(["t", "tier", "SA", "RA", "n", "flags"], body)


def serving(rows: list[Row]) -> tuple[str, list[list[str]]]:
    """The server under load, compared with its runtime alone, and lower precisions with fp32."""
    body, claims = [], []
    full = {r["name"]: r["throughput"] for r in rows if r["precision"] == "fp32"}
    for r in rows:
        over = ", ".join(f"{v} × {k}" for k, v in sorted(r["overload"].items()))
        precision = r["precision"]
        what = r["name"] if precision == "fp32" else f"{r['name']}, {precision}"
        if precision != "fp32" and r["name"].startswith("ResNet-18"):
            gain = r["throughput"] / full[r["name"]]
            met = "met" if gain >= 4 else "not met"
            claims.append([f"{what}: throughput of the server ÷ that in fp32, ≥ 4", f"{gain:.2f}", met])
        body.append(
            [
                r["name"],
                precision,
                str(r["images_per_request"]),
                f"{r['throughput']:.0f}",
                f"{r['alone']:.0f}",
                f"{r['ratio']:.2f}",
                f"{r['p99_ms']:.0f} ({r['p99_bar_ms']:.0f})",
                over,
                f"{r['overload_longest_s']:.1f}",
            ]
        )
        claims.append(
            [
                f"{what}: throughput of the server ÷ the runtime alone, ≥ {r['bar_at_least']:g}",
                f"{r['ratio']:.2f}",
                "met" if r["ratio"] >= r["bar_at_least"] else "not met",
            ]
        )
        claims.append(
            [
                f"{what}: p99 latency at 80 % load, ≤ deadline + 2 batch times",
                f"{r['p99_ms']:.0f} ms (bar: {r['p99_bar_ms']:.0f} ms)",
                "met" if r["p99_ms"] <= r["p99_bar_ms"] else "not met",
            ]
        )
        claims.append(
            [
                f"{what}: at twice the capacity, answers 503 and no time-outs",
                over,
                "met" if "503" in r["overload"] and set(r["overload"]) <= {"200", "503"} else "not met",
            ]
        )
    if not body:
        return "", []
    head = [
        "network",
        "precision",
        "images per request",
        "images/s",
        "images/s, runtime alone",
        "ratio",
        "p99 in ms at 80 % load (bar)",
        "answers at 200 % load",
        "longest wait at 200 % load, s",
    ]
    text = (
        "## Serving (`python benchmarks/measure/serve_load.py`)\n\nThe table compares the server under load with its "
        "runtime alone on the same network: ONNX Runtime in fp32, OpenVINO in bf16 and int8. Answers are counted by "
        "HTTP status.\n\n"
    )
    return text + table(head, body), claims
