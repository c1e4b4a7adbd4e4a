"""timm's networks by name: adopted, saved and loaded again, and clear words where timm is missing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from timm_shim import timm

import rheostat
from rheostat.cli.app import main
from rheostat.models.factories import from_timm

NAME = "timm:mobilenetv3_small_050(num_classes=10)"


def test_a_timm_name_is_followed_by_a_file_of_its_own(tmp_path: Path, monkeypatch, capsys) -> None:
    timm()
    model = rheostat.adopt(NAME, "dual", image=(3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    path = model.save(tmp_path / "x.safetensors")
    again = rheostat.load(path)
    x = torch.rand(2, 3, 32, 32)
    for level in (0.0, 0.5, 1.0):
        assert torch.equal(again(x, rheostat.Point(robustness=level)), model(x, rheostat.Point(robustness=level)))
    main(["info", str(path), "--net", NAME])
    assert "MobileNetV3" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"the file has .* where this network has"):
        rheostat.load(path, net="timm:mobilenetv3_small_050")
    with pytest.raises(ValueError, match="timm has no network 'resnet81'; did you mean 'resnet"):
        from_timm("timm:resnet81")
    with pytest.raises(ValueError, match="unexpected keyword"):
        from_timm("timm:resnet18(num_clases=10)")


def test_without_timm_the_error_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"needs timm, which cannot be imported .*: pip install timm"):
        rheostat.adopt("timm:resnet18", "dual", image=(3, 32, 32))
    assert "timm" not in sys.modules or sys.modules["timm"] is None
