"""The forms of images that a user may pass: data sets of this package, tensors, torch data sets and loaders, iterables.

Images that are held in memory become a `Dataset`. Anything else becomes `Indexed` (read item by item, by index) or
`Flow` (an iterable, read in its own order), and a run reads it on the fly.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import default_collate

from rheostat.data.base import DataError, Dataset, check_order
from rheostat.data.conversion import Form, as_uint8, check_labels, example_of
from rheostat.data.folders import ImageFolder
from rheostat.data.preprocessing import Preprocessing
from rheostat.runtime.seeding import seed_of, seeded, stream


@dataclass(frozen=True)
class Indexed:
    """A data set read item by item: `items[i]` for i below `len(items)`.

    `split` is the split of the images if a reader of this package provides it, else "".
    """

    name: str
    items: Any
    split: str = ""

    def __len__(self) -> int:
        return len(self.items)

    def only(self, rows: Tensor) -> Indexed:
        """The given rows; `rows` (n,) is an int64 index."""
        return replace(self, items=torch_data.Subset(self.items, rows.tolist()))


@dataclass(frozen=True)
class Flow:
    """An iterable of examples, or of batches (images (B, C, H, W), labels (B,)), in its own order."""

    name: str
    items: Iterable[Any]

    def examples(self, source: Iterable[Any], form: Form) -> Iterator[tuple[Tensor, int]]:
        """Yield (image, label) one by one from a source of examples or of batches."""
        for number, item in enumerate(source):
            where = f"{self.name}, item {number}"
            images = item[0] if isinstance(item, tuple | list) and len(item) == 2 else None
            if isinstance(images, Tensor) and images.ndim == 4:
                yield from ((example_of(pair, form, where)) for pair in zip(*item, strict=True))
            else:
                yield example_of(item, form, where)


Given = Dataset | Indexed | Flow


@dataclass(frozen=True)
class Loader:
    """The settings of a torch DataLoader that a run follows; None: not set."""

    workers: int | None = None
    sampler: torch_data.Sampler[int] | None = None


def opened(given: Any, form: Form, what: str, *, in_memory: bool | None = None) -> tuple[Given, Loader]:
    """The given images as `Dataset`, `Indexed` or `Flow`, and the settings of their DataLoader, if any.

    With `in_memory` None, tensors and data sets of this package are held in memory; other data sets are read item by
    item, because their transforms may be random. True reads all images once into memory; False streams all of them.
    Raises DataError (a ValueError) for images or labels that do not match the model.
    """
    loader = Loader()
    if isinstance(given, torch_data.DataLoader):
        given, loader = given.dataset, _loader(given, what)
    found = _recognised(given, form, what)
    if not isinstance(found, Flow) and not len(found):
        raise DataError(f"{what}: {found.name} is empty")
    if isinstance(found, Indexed):
        with seeded(0):  # report an item that does not match the model before any work is done
            example_of(found.items[0], form, f"{what}: {found.name}, item 0")
    if in_memory and not isinstance(found, Dataset):
        return held(found, form), loader
    if in_memory is False and isinstance(found, Dataset):
        return Indexed(found.name, torch_data.TensorDataset(found.images, found.labels), found.split), loader
    return found, loader


def plain(given: Any) -> Any:
    """A torch Subset of a `Dataset` or an `ImageFolder` as one of these, with its split, preprocessing and class names.

    Anything else stays as it is.
    """
    if type(given) is torch_data.Subset:
        source = plain(given.dataset)
        if isinstance(source, Dataset | ImageFolder):
            return source.only(torch.as_tensor(given.indices, dtype=torch.int64))
    return given


def _source(given: Any) -> Any:
    """The data set behind DataLoaders and torch subsets."""
    while isinstance(given, torch_data.DataLoader | torch_data.Subset):
        given = given.dataset
    return given


def _recognised(given: Any, form: Form, what: str) -> Given:
    given = plain(given)
    name = str(getattr(given, "name", "") or type(given).__name__)
    if isinstance(given, Dataset):
        return checked(given, form)
    if isinstance(given, torch_data.TensorDataset) and len(given.tensors) == 2:
        return _from_tensors(*given.tensors, form, what)
    if isinstance(given, tuple | list) and len(given) == 2 and all(isinstance(t, Tensor | np.ndarray) for t in given):
        return _from_tensors(torch.as_tensor(given[0]), torch.as_tensor(given[1]), form, what)
    if isinstance(given, torch_data.IterableDataset):
        return Flow(name, given)
    if hasattr(given, "__getitem__") and hasattr(given, "__len__") and not isinstance(given, str | dict):
        source = _source(given)
        return Indexed(name, given, source.split if isinstance(source, Dataset | ImageFolder) else "")
    if isinstance(given, Iterator):
        raise DataError(f"{what}: a {name} can be read only once; pass its source: a list, a Dataset or an iterable")
    if isinstance(given, Iterable) and not isinstance(given, str | dict):
        return Flow(name, given)
    raise DataError(
        f"{what}: cannot read images from a {name}; pass a torch Dataset or DataLoader, a pair of tensors (images, "
        "labels), a rheostat.data.Dataset, or an iterable of (image, label)"
    )


def _from_tensors(images: Tensor, labels: Tensor, form: Form, what: str) -> Dataset:
    if images.ndim == 3 and form.image[0] == 1:
        images = images[:, None]
    elif tuple(images.shape[1:]) != form.image and tuple(images.shape[1:]) == (*form.image[1:], form.image[0]):
        images = images.permute(0, 3, 1, 2).contiguous()
    if images.ndim != 4 or labels.ndim != 1:
        raise DataError(
            f"{what}: tensors {tuple(images.shape)} and {tuple(labels.shape)}, expected images (N, C, H, W) and "
            "labels (N,)"
        )
    if labels.is_floating_point():
        raise DataError(f"{what}: labels are {labels.dtype}, expected whole numbers")
    check_labels(labels, form, what)
    return checked(Dataset(what, as_uint8(images, what), labels.long(), form.classes), form)


def checked(dataset: Dataset, form: Form) -> Dataset:
    """The data set itself; raises DataError unless its image shape and number of classes match the model."""
    if dataset.image != form.image or len(dataset.classes) != len(form.classes):
        shape, own = (" × ".join(map(str, image)) for image in (dataset.image, form.image))
        raise DataError(
            f"{dataset.name} has images of {shape} and {len(dataset.classes)} classes, but the model takes {own} and "
            f"has {len(form.classes)} classes"
        )
    return dataset


def _loader(loader: torch_data.DataLoader[Any], what: str) -> Loader:
    """The settings of a loader; raises DataError for settings that a run cannot follow."""
    if loader.collate_fn is not default_collate:
        raise DataError(f"{what}: a custom collate_fn is not supported; move its work to the data set's transform")
    if isinstance(loader.dataset, torch_data.IterableDataset):
        return Loader(loader.num_workers)
    if loader.batch_size is None or type(loader.batch_sampler) is not torch_data.BatchSampler:
        raise DataError(f"{what}: a custom batch_sampler is not supported; pass batch_size and a sampler")
    sampler: Any = loader.sampler
    if type(sampler) is torch_data.RandomSampler and not sampler.replacement:
        dataset: Any = loader.dataset
        sampler = None if sampler.num_samples == len(dataset) else sampler  # a full shuffle: the run does this itself
    return Loader(loader.num_workers, sampler)


def batch_of(given: Any) -> int | None:
    """The batch size of a torch DataLoader, else None."""
    return given.batch_size if isinstance(given, torch_data.DataLoader) else None


def held(given: Given, form: Form, *, most: int | None = None, seed: int = 0) -> Dataset:
    """All images in memory, or at most `most` of them: a seeded draw if they are indexed, the first of an iterable."""
    if isinstance(given, Dataset):
        return given
    with seeded(seed_of(seed, "held")):  # for random transforms
        if isinstance(given, Indexed):
            rows = torch.arange(len(given))
            if most is not None and len(given) > most:
                rows = torch.randperm(len(given), generator=stream(seed, "held"))[:most].sort().values
            pairs = [example_of(given.items[i], form, f"{given.name}, item {i}") for i in rows.tolist()]
        else:
            pairs = list(itertools.islice(given.examples(given.items, form), most))
    if not pairs:
        raise DataError(f"{given.name} is empty")
    images = torch.stack([image for image, _ in pairs])
    split = given.split if isinstance(given, Indexed) else ""
    return Dataset(given.name, images, torch.tensor([label for _, label in pairs]), form.classes, split)


def measured(given: Any, form: Form, what: str, *, most: int | None = None) -> Dataset:
    """The images of a validation or test set in memory, at most `most` of them as in `held`.

    From a DataLoader they are those that its sampler gives in one pass, in the order of the data set; an image that the
    sampler repeats counts as often. Raises DataError as `opened` does, and for classes of the model in another order,
    unless the caller gave their names (`form.renamed`).
    """
    names = class_names(given)
    renumbered = getattr(_source(given), "target_transform", None) is not None
    if names is not None and not (form.renamed or renumbered):
        check_order(what, names, form.classes)
    found, loader = opened(given, form, what)
    if isinstance(found, Dataset) and form.renamed:
        found = replace(found, classes=form.classes)
    if loader.sampler is not None and not isinstance(found, Flow):
        rows = _rows(loader.sampler, len(found), what)
        found = found if torch.equal(rows, torch.arange(len(found))) else found.only(rows)
    return held(found, form, most=most)


def _rows(sampler: torch_data.Sampler[int], count: int, what: str) -> Tensor:
    """The indices that a sampler of `count` images gives in one seeded pass, in ascending order."""
    if isinstance(sampler, torch_data.DistributedSampler):
        raise DataError(f"{what}: every rank measures all of these images; leave the DistributedSampler out")
    seeded_sampler: Any = copy.copy(sampler)  # the user's own generator does not advance
    if hasattr(seeded_sampler, "generator"):
        seeded_sampler.generator = stream(0, "sampled")
    with seeded(seed_of(0, "sampled")):
        rows = torch.tensor(sorted(int(i) for i in seeded_sampler), dtype=torch.int64)
    if not len(rows):
        raise DataError(f"{what}: the sampler {type(sampler).__name__} gives no images")
    if not 0 <= int(rows[0]) <= int(rows[-1]) < count:
        raise DataError(f"{what}: the sampler gave indices from {int(rows[0])} to {int(rows[-1])} for {count} images")
    return rows


def class_names(given: Any) -> tuple[str, ...] | None:
    """The class names if the data set provides them (this package, torchvision, Hugging Face), else None."""
    given = _source(given)
    found = getattr(given, "classes", None)
    features = getattr(given, "features", None)
    if found is None and isinstance(features, dict):
        named = [f.names for f in features.values() if hasattr(f, "names")]
        found = named[0] if len(named) == 1 else None
    return tuple(map(str, found)) if isinstance(found, tuple | list) else None


def rule_of(given: Any) -> Preprocessing | None:
    """The preprocessing rule of images from a reader of this package, else None."""
    source = _source(given)
    return source.preprocessing if isinstance(source, Dataset | ImageFolder) else None
