"""A device that this machine does not have is named, with those that it may have."""

from __future__ import annotations

import pytest
import torch

from rheostat.runtime.distributed import device_named


@pytest.mark.parametrize("name", ["mps", "xpu", "meta", "gpu"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no device '{name}'; allowed: auto, cpu, cuda, cuda:N"):
        device_named(name)


def test_a_chip_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert device_named("cuda:1").index == 1
    with pytest.raises(ValueError, match=r"no device 'cuda:7': this machine has 2 GPU\(s\), from cuda:0 on; use one"):
        device_named("cuda:7")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="no device 'cuda:2'"):
        device_named("auto")
    assert chosen == [torch.device("cuda:1")]
