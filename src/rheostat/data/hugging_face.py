"""Data sets of Hugging Face by name, read from the cache of the package `datasets`; nothing is downloaded."""

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
"""Pillow's modes of images without colours."""


def read(name: str, preprocessing: Preprocessing | None = None) -> tuple[Dataset, Dataset]:
    """(train, test or validation) of a data set in memory: `NAME`, `NAME:CONFIG`, or a folder of `save_to_disk`.

    It needs one column of images and one of class labels. Without preprocessing all images have one size; they are grey
    where the first is. DataError in one line where the cache does not hold it.
    """
    found = _opened(name)
    second = next((s for s in ("test", "validation") if s in found), None)
    if "train" not in found or second is None:
        raise DataError(f"hf:{name} has the splits {', '.join(map(str, found))}; train and test are needed")
    return _held(name, found["train"], preprocessing), _held(name, found[second], preprocessing)


def _opened(name: str) -> Any:
    """The splits by name."""
    try:
        import datasets
        from datasets.packaged_modules.cache.cache import Cache
    except ImportError:
        raise DataError("data sets of Hugging Face need the package datasets: pip install 'rheostat[hub]'") from None
    if Path(name).is_dir():
        try:
            return datasets.load_from_disk(name)
        except (FileNotFoundError, ValueError) as error:
            raise DataError(f"{name}: {str(error).splitlines()[0]}") from None
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
            f"datasets.load_dataset({plain!r}) where there is a connection"
        ) from None


def _held(name: str, found: Any, preprocessing: Preprocessing | None) -> Dataset:
    """One split in memory."""
    import datasets

    pictures = [k for k, f in found.features.items() if isinstance(f, datasets.Image)]
    labels = {k: f for k, f in found.features.items() if isinstance(f, datasets.ClassLabel)}
    chosen = [k for k in LABEL_COLUMNS if k in labels] or list(labels)
    if len(pictures) != 1 or not chosen:
        raise DataError(
            f"hf:{name} has the columns {', '.join(found.features)}; one of images and one of class labels are needed"
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
            raise DataError(f"hf:{name}, item {number}: {shapes[0]}, expected {shapes[1]} as the first; {HINT}")
    marks = torch.tensor(found[chosen[0]], dtype=torch.int64)
    return Dataset(name, torch.stack(images), marks, tuple(labels[chosen[0]].names), preprocessing=preprocessing)


def _mode(raw: bytes) -> str:
    """Grey or colour, as an encoded image has it; ImageProblem where it is none."""
    try:
        return "L" if Image.open(io.BytesIO(raw), formats=FILE_FORMATS).mode in GREY else "RGB"
    except Exception as error:  # Pillow's decoders raise anything on hostile bytes
        raise ImageProblem(f"not an image ({type(error).__name__})") from None
