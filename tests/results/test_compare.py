"""Two runs on the same images: paired as `paired` and `compared` say, and nothing else is paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rheostat.cli.app import main
from rheostat.results.areas import compared
from rheostat.results.comparison import MARGIN, Comparison, compare, side
from rheostat.results.intervals import paired
from rheostat.results.rows import add_rows
from support import made_row

N = 200


def bits(seed: int, clean: float, robust: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    stands = torch.rand(N, generator=generator)
    return stands < clean, stands < robust


def put(file: Path, run: str, points: list[dict[str, float]], *, seed: int, **changes: Any) -> None:
    """Add a run's rows and bits."""
    rows, kept = [], {}
    for place, at in enumerate(points):
        clean, robust = bits(seed + place, 0.9 - 0.1 * place, 0.1 + 0.2 * place)
        row = made_row(clean, robust, **{"run": run, "at": at, **changes})
        rows.append(row)
        kept[row.identity] = (clean, robust)
    add_rows(file, rows, kept)


def dials(*values: float, **more: float) -> list[dict[str, float]]:
    return [{"robustness": v, **more} for v in values]


@pytest.fixture
def two(tmp_path: Path) -> tuple[str, str]:
    put(tmp_path / "a" / "rows.jsonl", "one", dials(0.0, 0.5, 1.0), seed=0)
    put(tmp_path / "b.jsonl", "two", dials(0.0, 0.5, 1.0), seed=10)
    put(tmp_path / "b.jsonl", "three", dials(0.0), seed=20)
    return str(tmp_path / "a"), f"{tmp_path / 'b.jsonl'}:two"


def found(two: tuple[str, str], **options: Any) -> Comparison:
    return compare(side(two[0]), side(two[1]), **options)


def test_differences_are_paired_on_the_same_images(two) -> None:
    result = found(two)
    assert result.names == ("one", "two")
    assert result.n == N
    assert [label for label, _, _ in result.points] == ["t = 0", "t = 0.5", "t = 1"]
    mine = [bits(i, 0.9 - 0.1 * i, 0.1 + 0.2 * i) for i in range(3)]
    theirs = [bits(10 + i, 0.9 - 0.1 * i, 0.1 + 0.2 * i) for i in range(3)]
    for (_, clean, robust), a, b in zip(result.points, mine, theirs, strict=True):
        assert (clean.value, clean.low, clean.high) == paired(a[0], b[0])
        assert (robust.value, robust.low, robust.high) == paired(a[1], b[1])
    lowest = min(float(c.float().mean()) for c, _ in (*mine, *theirs))
    assert result.above == pytest.approx(lowest - MARGIN)
    assert result.area is not None
    area = (result.area.value, result.area.low, result.area.high)
    assert area == pytest.approx(compared(mine, theirs, (result.above, 0.0)))


def test_the_other_way_about_the_sign_turns(two) -> None:
    one, other = found(two), found(two[::-1])
    for (_, a, b), (_, c, d) in zip(one.points, other.points, strict=True):
        assert (a.value, b.value) == (-c.value, -d.value)
    same = compare(side(two[0]), side(two[0]))
    assert all(d.verdict == "not significantly different" for _, *both in same.points for d in both)
    assert same.area is not None
    assert same.area.value == 0


def test_a_plain_difference_is_told(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", "low", [{}], seed=0)
    put(tmp_path / "b.jsonl", "high", dials(0.0, 0.5, 1.0), seed=0)
    low, high = side(str(tmp_path / "a.jsonl")), side(str(tmp_path / "b.jsonl"))
    with pytest.raises(ValueError, match="fix it: --at robustness="):
        compare(low, high)
    result = compare(high, low, at={"robustness": 1.0})
    ((label, clean, robust),) = result.points
    assert label == "t = 1"
    assert (clean.verdict, robust.verdict) == ("worse", "better")
    assert result.area is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "mnist"}, "no rows can be paired"),
        ({"split": "calibrate-fit"}, "no rows can be paired"),
        ({"tier": "full"}, "no rows can be paired by tier 'quick': one has quick on 200 of digits test"),
        ({"rule": "at-0"}, "no rows can be paired"),
        ({"attack": {"name": "worst", "of": ["pgd20"], "norm": "linf", "eps": 0.2}}, "no rows can be paired"),
        ({"attack": {"name": "worst", "of": ["fgsm"], "norm": "linf", "eps": 0.1}}, "no rows can be paired"),
        ({"dataset_hash": "e"}, "measured on different images"),
        ({"at": {"robustness": 0.3}}, "no point in common: one has t = 0, t = 0.5, t = 1; two has"),
    ],
)
def test_what_is_not_the_same_does_not_pair(two, tmp_path: Path, changes, message: str) -> None:
    put(tmp_path / "c.jsonl", "two", dials(0.0), seed=10, **changes)
    with pytest.raises(ValueError, match=message):
        compare(side(two[0]), side(str(tmp_path / "c.jsonl")))


def test_training_positions_and_calibrated_ones_do_not_pair(two, tmp_path: Path) -> None:
    for rule in (None, "at-0"):
        put(tmp_path / "c.jsonl", "two", dials(0.0, 0.5, 1.0), seed=10, dial="lambda", rule=rule)
    put(tmp_path / "a" / "rows.jsonl", "one", dials(0.0, 0.5, 1.0), seed=0, rule="at-0")
    sides = side(two[0]), side(str(tmp_path / "c.jsonl"))
    for pair in (sides, sides[::-1]):
        with pytest.raises(ValueError, match=r"of two are training λ and those of one are t of .* --between at-0"):
            compare(*pair)
    assert len(compare(*sides, between="at-0").points) == 3
    for end in (0.0, 1.0):  # where λ and t are the same network
        assert len(compare(*sides, at={"robustness": end}).points) == 1
    # A network without a dial is paired with either.
    put(tmp_path / "d.jsonl", "plain", [{}], seed=0)
    for one in sides:
        assert compare(one, side(str(tmp_path / "d.jsonl")), at={"robustness": 1.0}).points


def test_sides_are_named(two, tmp_path: Path) -> None:
    file = two[1].rpartition(":")[0]
    with pytest.raises(ValueError, match=r"holds 2 runs; name one: .*:two"):
        side(file)
    with pytest.raises(ValueError, match="has no run 'twoo'; did you mean 'two'"):
        side(f"{file}:twoo")
    put(Path(file), "pkg.nets:make", dials(0.0), seed=30)
    assert side(f"{file}:pkg.nets:make").name == "pkg.nets:make"
    assert side(two[1]).name == "two"
    with pytest.raises(ValueError, match=r"no rows in .*nowhere.jsonl; run `rheostat evaluate"):
        side(str(tmp_path / "nowhere.jsonl:two"))
    with pytest.raises(ValueError, match=r"no rows in .*nowhere; run `rheostat evaluate"):
        side(str(tmp_path / "nowhere"))


def test_as_a_person_sees_it(two, capsys) -> None:
    main(["compare", *two])
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("one minus two, 200 images, paired, 95 %: pgd20, linf, eps 0.1; digits, test")
    assert "t = 0.5" in out
    assert "square points, not significantly different" in out
    with pytest.raises(SystemExit) as stop:
        main(["compare", *two, "--at", "robustness=0,1"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "rheostat: --at fixes one position, given 'robustness=0,1'\n"
    with pytest.raises(ValueError, match="no row has a dial 'robustnes'; did you mean 'robustness'"):
        found(two, at={"robustnes": 1.0})


def test_a_report_of_two_runs_compares_them(two, tmp_path: Path) -> None:
    from rheostat.reports.page import compared_html

    text = compared_html(found(two))
    assert "<h2>one minus two</h2>" in text
    assert text.count("<tr>") == 1 + 3
    assert "Area under the dial" in text
    alone = found(two, at={"robustness": 1.0})
    assert "Area" not in compared_html(alone)


def test_a_report_of_no_rows_says_so(tmp_path: Path, capsys) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path)])
    assert stop.value.code == 2
    assert "there are no rows to report" in capsys.readouterr().err
