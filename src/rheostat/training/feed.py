"""The batches of a run, from a data set on the device or one that is read during the run.

The order of images and the random draws of augmentation depend only on the seed and the step, so that a resumed run
sees the same batches as an uninterrupted one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Sampler

from rheostat import data
from rheostat.data.conversion import Form
from rheostat.data.given import Flow, Given, Indexed
from rheostat.data.streaming import Draw, read_flow, read_indexed
from rheostat.runtime.distributed import Ranks
from rheostat.runtime.seeding import seed_of, seeded, stream
from rheostat.training.settings import Settings


@dataclass(frozen=True)
class Feed:
    """The training images of a run and how they are read.

    `per_epoch` is the number of steps of an epoch; images that do not fill a whole batch are not used in that epoch.
    With `parts` each batch comes in that many pieces, one after the other. Each rank takes its rows of every piece.
    """

    given: Given
    form: Form
    settings: Settings
    ranks: Ranks
    per_epoch: int
    device: torch.device
    sampler: Sampler[int] | None = None
    parts: int = 1
    workers: int = 0

    @property
    def piece(self) -> int:
        """Rows of one piece of a batch, over all ranks."""
        return self.settings.train.batch // self.parts

    def rows(self, part: int) -> slice:
        """This rank's rows of a piece, as a slice of the whole batch."""
        first, last = self.ranks.share(self.piece)
        return slice(part * self.piece + first, part * self.piece + last)

    def order(self, epoch: int) -> Tensor:
        """The indices of an epoch's images: the sampler's, seeded by the run's stream, or a permutation."""
        assert not isinstance(self.given, Flow)
        seed, needed = self.settings.train.seed, self.per_epoch * self.settings.train.batch
        if self.sampler is None:
            return torch.randperm(len(self.given), generator=stream(seed, "order", epoch))
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        if hasattr(self.sampler, "generator"):
            self.sampler.generator = stream(seed, "order", epoch)
        with seeded(seed_of(seed, "order", epoch)):
            found = torch.tensor(list(itertools.islice(self.sampler, needed)))
        if len(found) < needed:
            raise ValueError(
                f"the sampler gave {len(found)} indices, but an epoch needs {needed} ({self.per_epoch} batches)"
            )
        if not 0 <= int(found.min()) <= int(found.max()) < len(self.given):
            raise ValueError(
                f"the sampler gave indices from {int(found.min())} to {int(found.max())} for {len(self.given)} images"
            )
        return found

    def pieces(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (pixels in [0, 1], labels) of this rank, endlessly from step `first` on; `parts` pieces per batch."""
        for place, (images, labels) in zip(
            ((step, part) for step in itertools.count(first) for part in range(self.parts)),
            self._read(first),
            strict=False,
        ):
            step, part = place
            drawn = data.augment(
                images.to(self.device, non_blocking=True),
                self.settings.data.augment,
                stream(self.settings.train.seed, "augment", step),
                padding=self.settings.data.padding,
                rows=self.rows(part),
                batch=self.settings.train.batch,
            )
            if not self.settings.device.channels_last:
                # Crops come channels-last, which a foreign forward may not take; one channel is contiguous either way.
                drawn = drawn.clone(memory_format=torch.contiguous_format)
            yield data.to_pixels(drawn), labels.to(self.device, non_blocking=True)

    def _read(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        if isinstance(self.given, Flow):
            return self._flow(self.given, first)
        if isinstance(self.given, Indexed):
            return read_indexed(
                self.given,
                self._draws(first),
                self.form,
                seed=self.settings.train.seed,
                workers=self.workers,
                pin=self.device.type == "cuda",
            )
        return self._held(self.given, first)

    def _chosen(self, first: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (step, the indices of this rank's rows of one piece), from step `first` on."""
        size = self.settings.train.batch
        epoch, place = divmod(first, self.per_epoch)
        while True:
            order = self.order(epoch)
            for at in range(place, self.per_epoch):
                batch = order[at * size : (at + 1) * size]
                for part in range(self.parts):
                    yield epoch * self.per_epoch + at, batch[self.rows(part)]
            epoch, place = epoch + 1, 0

    def _held(self, dataset: data.Dataset, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for _, chosen in self._chosen(first):
            rows = chosen.to(dataset.images.device)
            yield dataset.images[rows], dataset.labels[rows]

    def _draws(self, first: int) -> Iterator[list[Draw]]:
        """Yield one list of (number of the read in the run, index) per piece."""
        size = self.settings.train.batch
        for count, (step, chosen) in enumerate(self._chosen(first)):
            rows = range(*self.rows(count % self.parts).indices(size))
            yield [(step * size + row, index) for row, index in zip(rows, chosen.tolist(), strict=True)]

    def _flow(self, given: Flow, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an iterable: each epoch restarts it; batches before step `first` are read and dropped."""
        size, seed = self.settings.train.batch, self.settings.train.seed
        epoch, skipped = divmod(first, self.per_epoch)
        while True:
            source = read_flow(given, self.form, seed=seed, epoch=epoch, workers=self.workers)
            for at in range(self.per_epoch):
                batch = list(itertools.islice(source, size))
                if len(batch) < size:
                    raise ValueError(
                        f"{given.name} ended after {at * size + len(batch)} examples of epoch {epoch + 1}; "
                        f"{self.per_epoch} steps of {size} need {self.per_epoch * size}: lower steps_per_epoch, or "
                        "give an iterable that starts again"
                    )
                if at < skipped:
                    continue
                images, labels = torch.stack([x for x, _ in batch]), torch.tensor([y for _, y in batch])
                for part in range(self.parts):
                    yield images[self.rows(part)], labels[self.rows(part)]
            epoch, skipped = epoch + 1, 0


def batches(
    train_set: data.Dataset, settings: Settings, step: int, per_epoch: int, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Pixels and labels of this rank's rows of one step's global batch, from a data set in memory."""
    form = Form(train_set.image, train_set.classes)
    return next(Feed(train_set, form, settings, ranks, per_epoch, train_set.images.device).pieces(step))
