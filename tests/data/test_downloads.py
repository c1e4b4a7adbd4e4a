"""Downloads: a folder is there whole or not at all, and a failed one is tried again."""

from __future__ import annotations

from pathlib import Path

import pooch
import pytest

from rheostat import data
from rheostat.data.base import DATASETS, DataError
from rheostat.data.downloads import download


class Web:
    """Serves the published names; fails at those in `missing`."""

    def __init__(self) -> None:
        self.missing: set[str] = set()
        self.fetched: list[str] = []

    def retrieve(self, url: str, *, known_hash: str, path: Path, fname: str, processor: object) -> None:
        path.mkdir(parents=True, exist_ok=True)  # as pooch does, before it knows whether there is a file
        if fname in self.missing:
            raise ConnectionError("no route")
        if not (path / fname).is_file():
            self.fetched.append(fname)
            (path / fname).write_bytes(b"x")


def remotes(name: str):
    return DATASETS.get(name).remotes


@pytest.fixture
def web(monkeypatch) -> Web:
    found = Web()
    monkeypatch.setattr(pooch, "retrieve", found.retrieve)
    return found


def test_a_failed_download_leaves_no_folder_and_is_tried_again(tmp_path: Path, web: Web) -> None:
    names = [r.name for r in remotes("mnist")]
    web.missing = {names[2]}
    for _ in range(2):
        with pytest.raises(DataError, match="could not download"):
            data.load("mnist", folder=tmp_path, verify=False)
        assert not (tmp_path / "mnist").exists()
    web.missing = set()
    download(remotes("mnist"), tmp_path / "mnist")
    assert sorted(p.name for p in (tmp_path / "mnist").iterdir()) == sorted(names)
    assert sorted(web.fetched) == sorted(names)  # each once: what came before the failure was kept
    download(remotes("mnist"), tmp_path / "mnist")
    assert len(web.fetched) == len(names)


def test_an_empty_folder_of_an_earlier_failure_is_no_data(tmp_path: Path, web: Web) -> None:
    (tmp_path / "svhn").mkdir()
    with pytest.raises(DataError, match="no folder"):
        data.load("svhn", folder=tmp_path, fetch=False)
    download(remotes("svhn"), tmp_path / "svhn")
    assert len(list((tmp_path / "svhn").iterdir())) == 2
