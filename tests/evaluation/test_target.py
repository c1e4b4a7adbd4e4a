"""A user's own module by name; judgements in full precision."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from rheostat.evaluation.attacked import outcome
from rheostat.models.factories import from_factory


def test_a_factory_is_found_on_the_search_path_which_stays_what_it_was(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "a_module_of_mine.py").write_text("import torch\n\ndef make():\n    return torch.nn.Identity()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    before = list(sys.path)
    for name in ("a_module_of_mine:make", "no_such_module:make"):
        with pytest.raises(ValueError, match="cannot import"):
            from_factory(name)
    assert sys.path == before
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(from_factory("a_module_of_mine:make"), torch.nn.Identity)


def test_the_command_line_finds_a_factory_in_the_working_directory(tmp_path: Path, monkeypatch, capsys) -> None:
    from rheostat.cli import main

    (tmp_path / "my_nets.py").write_text("def make():\n    return 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    with pytest.raises(SystemExit):
        main(["evaluate", "my_nets:make", "--data", "digits", "--eps", "0.1"])
    assert "returned a int" in capsys.readouterr().err


def test_a_judgement_is_in_full_precision_whatever_its_caller_set(digits) -> None:
    from rheostat.attacks import named
    from rheostat.data import subset

    seen = set()

    class Noting(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add((torch.is_autocast_enabled("cpu"), torch.backends.cuda.matmul.allow_tf32))
            return x.flatten(1)[:, :10]

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outcome(Noting(), None, subset(digits[1], 20), named("fgsm", eps=0.1, norm="linf"))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == {(False, False)}
