"""The command `playground` takes the network of an adopted model, as its error message says."""

from __future__ import annotations

import pytest

from rheostat.cli.app import main

pytest.importorskip("gradio")


def test_the_playground_takes_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["playground", "oat-digits", "--net", "elsewhere:make"])
    assert "holds a network that its file rebuilds" in capsys.readouterr().err
