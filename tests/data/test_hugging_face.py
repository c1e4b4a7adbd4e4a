"""Data sets of Hugging Face by name: from a cache that the test writes, without a connection."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rheostat import data
from rheostat.data import DataError, Preprocessing

datasets = pytest.importorskip("datasets")


def rows(count: int, grey: bool) -> dict[str, list]:
    """Images of two sizes where they are in colour, and their labels."""
    from PIL import Image

    shapes = [(8, 8) if grey or i % 2 else (10, 6) for i in range(count)]
    pixels = [np.full(s if grey else (*s, 3), 10 * i, np.uint8) for i, s in enumerate(shapes)]
    return {"image": [Image.fromarray(p) for p in pixels], "label": [i % 2 for i in range(count)]}


FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})


class Own(datasets.GeneratorBasedBuilder):
    """What a download leaves in the cache."""

    VERSION = datasets.Version("1.0.0")

    def _info(self):
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, manager):
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"count": count})
            for name, count in (("train", 6), ("test", 4))
        ]

    def _generate_examples(self, count):
        given = rows(count, grey=True)
        for i in range(count):
            yield i, {k: v[i] for k, v in given.items()}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    datasets.disable_progress_bars()
    Own(cache_dir=str(tmp_path), dataset_name="tiny_pictures", hash="0123abcd").download_and_prepare()
    return tmp_path


def test_a_name_is_read_from_the_cache(cache: Path) -> None:
    train, test = data.load("hf:tiny_pictures")
    assert (train.image, len(train), len(test), train.classes) == ((1, 8, 8), 6, 4, ("cat", "dog"))
    assert train.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert (train.split, test.split) == ("train", "test")
    assert train.images.dtype == torch.uint8


def test_what_the_cache_does_not_hold_is_one_line(cache: Path) -> None:
    with pytest.raises(DataError, match=r"hf:lab/none: Couldn't find cache for lab/none in .*load it once") as told:
        data.load("hf:lab/none")
    assert "\n" not in str(told.value)


def test_a_saved_folder_of_one_split_is_named(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows(4, grey=True), features=FEATURES).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"^hf:\S+ holds one split; it needs train and test$"):
        data.load(f"hf:{tmp_path / 'saved'}")


def test_a_saved_folder_of_mixed_sizes_takes_a_rule(tmp_path: Path) -> None:
    made = {
        name: datasets.Dataset.from_dict(rows(count, grey=False), features=FEATURES)
        for name, count in (("train", 6), ("validation", 4))
    }
    datasets.disable_progress_bars()
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(DataError, match=r"item 1: .*preprocessing=data\.Preprocessing"):
        data.load(f"hf:{tmp_path / 'saved'}")
    train, _ = data.load(f"hf:{tmp_path / 'saved'}", preprocessing=Preprocessing((8, 8)))
    assert train.image == (3, 8, 8)
    assert train.images[:, 2, 4, 4].tolist() == [0, 10, 20, 30, 40, 50]


def test_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"rheostat\[hub\]"):
        data.load("hf:mnist")
