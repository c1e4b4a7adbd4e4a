"""Hugging Face data sets by name, read from the cache of the package `datasets`; nothing is downloaded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rheostat.data.base import DataError, Dataset
from rheostat.data.conversion import LABEL_COLUMNS
from rheostat.data.folders import HINT
from rheostat.data.images import FILE_FORMATS, FILE_PIXELS, ImageProblem, decode
from rheostat.data.preprocessing import Preprocessing

PREFIX = "hf:"
GREY = ("1", "L", "LA", "I", "I;16", "I;16B")
"""Pillow's modes of greyscale images."""


def read(name: str, preprocessing: Preprocessing | None = None) -> tuple[Dataset, Dataset]:
    """(train, test or validation) in memory, of `NAME`, `NAME:CONFIG` or a folder written by `save_to_disk`.

    The data set needs one column of images and one of class labels. Without preprocessing all images must have one
    size, and all are read as grey if the first one is. Raises DataError if the cache does not hold the data set.
    """
    found = _opened(name)
    second = next((s for s in ("test", "validation") if s in found), None)
    if "train" not in found or second is None:
        raise DataError(f"hf:{name} has the splits {', '.join(map(str, found))}; it needs train and test")
    return _held(name, found["train"], preprocessing), _held(name, found[second], preprocessing)


def _opened(name: str) -> Any:
    """The data set's splits by name."""
    try:
        import datasets
        from datasets.packaged_modules.cache.cache import Cache
    except ImportError:
        raise DataError("Hugging Face data sets need the package datasets: pip install 'rheostat[hub]'") from None
    if Path(name).is_dir():
        try:
            found = datasets.load_from_disk(name)
        except (FileNotFoundError, ValueError) as error:
            raise DataError(f"{name}: {str(error).splitlines()[0]}") from None
        if not isinstance(found, datasets.DatasetDict):
            raise DataError(f"hf:{name} holds one split; it needs train and test")
        return found
    plain, _, config = name.partition(":")
    try:
        builder = Cache(
            repo_id=plain,
            dataset_name=plain.rpartition("/")[2],
            config_name=config or None,
            version="auto",
            hash="auto",
        )
        return builder.as_dataset()
    except (FileNotFoundError, ValueError) as error:
        raise DataError(
            f"hf:{name}: {' '.join(str(error).split())} in {datasets.config.HF_DATASETS_CACHE}; load it once with "
            f"datasets.load_dataset({plain!r}) while online"
        ) from None


def _held(name: str, found: Any, preprocessing: Preprocessing | None) -> Dataset:
    """One split, held in memory."""
    import datasets

    pictures = [k for k, f in found.features.items() if isinstance(f, datasets.Image)]
    labels = {k: f for k, f in found.features.items() if isinstance(f, datasets.ClassLabel)}
    chosen = [k for k in LABEL_COLUMNS if k in labels] or list(labels)
    if len(pictures) != 1 or not chosen:
        raise DataError(
            f"hf:{name} has the columns {', '.join(found.features)}; it needs one of images and one of class labels"
        )
    if not len(found):
        raise DataError(f"hf:{name}: a split is empty")
    encoded = found.cast_column(pictures[0], datasets.Image(decode=False))
    mode = preprocessing.mode if preprocessing is not None else ""
    images: list[torch.Tensor] = []
    for number, item in enumerate(encoded[pictures[0]]):
        raw = item["bytes"] if item["bytes"] is not None else Path(item["path"]).read_bytes()
        try:
            mode = mode or _mode(raw)
            image = decode(raw, FILE_FORMATS, mode, FILE_PIXELS)
        except ImageProblem as problem:
            raise DataError(f"hf:{name}, item {number}: not a readable image ({problem})") from None
        rule = preprocessing or Preprocessing((image.height, image.width), mode=mode)
        images.append(rule.pixels(image))
        if images[-1].shape != images[0].shape:
            shapes = tuple(images[-1].shape), tuple(images[0].shape)
            raise DataError(f"hf:{name}, item {number}: {shapes[0]}, expected {shapes[1]} like the first; {HINT}")
    marks = torch.tensor(found[chosen[0]], dtype=torch.int64)
    return Dataset(name, torch.stack(images), marks, tuple(labels[chosen[0]].names), preprocessing=preprocessing)


def _mode(raw: bytes) -> str:
    """The mode of an encoded image: "L" if it is grey, else "RGB"; raises ImageProblem if it is not an image."""
    try:
        return "L" if Image.open(io.BytesIO(raw), formats=FILE_FORMATS).mode in GREY else "RGB"
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        raise ImageProblem(f"not an image ({type(error).__name__})") from None
