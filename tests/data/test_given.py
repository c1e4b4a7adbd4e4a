"""Images as users have them: every form becomes uint8 (C, H, W) and a label, or an error that says what to do."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data as torch_data

from rheostat.data import DataError, Dataset, Preprocessing, read_folder
from rheostat.data.base import check_order
from rheostat.data.conversion import Form, as_uint8, example_of, image_of, label_of
from rheostat.data.given import Flow, Indexed, class_names, held, measured, opened, rule_of
from rheostat.data.images import read_image
from rheostat.data.streaming import read_flow, read_indexed
from rheostat.runtime.seeding import seeded

COLOUR = Form((3, 4, 6), ("cat", "dog"))
GREY = Form((1, 4, 6), ("cat", "dog"))
PIXELS = torch.arange(72, dtype=torch.uint8).reshape(3, 4, 6)


def test_floats_of_image_files_come_back_to_the_bit() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    for floats in (every.float() / 255, every.double() / 255, every.half() / 255):
        assert torch.equal(as_uint8(floats, "x"), every)
    assert torch.equal(as_uint8(every.long(), "x"), every)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.tensor([0.0, 200.0]), "divide them by 255"),
        (torch.tensor([-1.0, 1.0]), "remove normalisation"),
        (torch.tensor([0.0, float("nan")]), "expected floats in"),
        (torch.tensor([0, 300]), "from 0 to 300, expected uint8"),
        (torch.tensor([True]), "pixels of torch.bool"),
    ],
)
def test_pixels_outside_say_what_to_do(pixels: Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_uint8(pixels, "x")


@pytest.mark.parametrize(
    "value",
    [
        PIXELS,
        PIXELS.float() / 255,
        PIXELS.permute(1, 2, 0).numpy(),
        PIXELS.tolist(),
        Image.fromarray(PIXELS.permute(1, 2, 0).numpy()),
        Image.fromarray(PIXELS.permute(1, 2, 0).numpy()).convert("RGBA"),
    ],
)
def test_an_image_in_any_form(value: Any) -> None:
    found = image_of(value, COLOUR, "x")
    assert found.dtype == torch.uint8
    assert torch.equal(found, PIXELS)


def test_grey_images_need_no_channel() -> None:
    assert torch.equal(image_of(PIXELS[0], GREY, "x"), PIXELS[:1])
    assert image_of(Image.fromarray(PIXELS[0].numpy()), GREY, "x").shape == (1, 4, 6)
    assert image_of(Image.fromarray(PIXELS[0].numpy()), COLOUR, "x").shape == (3, 4, 6)


@pytest.mark.parametrize("rule", [None, Preprocessing((4, 6), mode="L")])
def test_sixteen_bits_are_scaled_as_those_of_a_file(rule: Preprocessing | None, tmp_path: Path) -> None:
    form = Form((1, 4, 6), ("cat", "dog"), preprocessing=rule)
    deep = torch.linspace(0, 65535, 24).reshape(4, 6).numpy().astype(np.uint16)
    image = Image.fromarray(deep)
    image.save(tmp_path / "x.png")
    expected = read_image(tmp_path / "x.png", "L")
    assert expected.unique().numel() == 24
    for given in (image, Image.open(tmp_path / "x.png")):
        assert torch.equal(image_of(given, form, "x"), expected)
    for kind in (np.float32, np.int32):
        with pytest.raises(DataError, match="x: 32-bit pixels of unknown range"):
            image_of(Image.fromarray(deep.astype(kind)), form, "x")


def test_a_flipped_array_is_an_image() -> None:
    """A view of NumPy with a negative stride, as OpenCV's BGR turned to RGB is."""
    array = np.arange(72, dtype=np.uint8).reshape(4, 6, 3)
    assert torch.equal(image_of(array[:, :, ::-1], COLOUR, "x"), image_of(array[:, :, ::-1].copy(), COLOUR, "x"))


@pytest.mark.parametrize("value", ["cat/1.png", object(), None, [[1, 2], [3]]])
def test_what_is_no_image_is_named(value: Any) -> None:
    with pytest.raises(DataError, match=r"x: an image is a (str|object|NoneType|list); give tensors"):
        image_of(value, COLOUR, "x")


@pytest.mark.parametrize("label", [1, 1.0, torch.tensor(1), torch.tensor([1]), np.int64(1), np.array(1)])
def test_a_label_in_any_form(label: Any) -> None:
    assert label_of(label, GREY, "x") == 1


@pytest.mark.parametrize(
    "label", [2, -1, 0.5, float("nan"), np.float32("inf"), "cat", True, None, torch.eye(2)[0], np.zeros(2)]
)
def test_a_label_that_is_none(label: Any) -> None:
    with pytest.raises(DataError, match=r"x: (labels from|the label|label of shape)"):
        label_of(label, GREY, "x")


def test_columns_of_dicts_are_found_or_named() -> None:
    item = {"img": PIXELS, "fine_label": 1, "coarse_label": 0}
    assert example_of(item, COLOUR, "x")[1] == 1
    assert example_of(item, Form((3, 4, 6), ("a", "b"), ("img", "coarse_label")), "x")[1] == 0
    with pytest.raises(DataError, match=r'expected 1; name them: columns=\("image", "label"\)'):
        example_of({**item, "label": 0}, COLOUR, "x")
    with pytest.raises(DataError, match="no column 'image'; allowed: img, fine_label, coarse_label"):
        example_of(item, Form((3, 4, 6), ("a", "b"), ("image", "label")), "x")


def items(count: int = 8) -> list[tuple[Tensor, int]]:
    return [(PIXELS, i % 2) for i in range(count)]


def test_what_a_loader_says_is_followed() -> None:
    weighted = torch_data.WeightedRandomSampler([1.0] * 8, 8)
    for loader, expected in (
        (torch_data.DataLoader(items(), 4, shuffle=True), None),
        (torch_data.DataLoader(items(), 4), torch_data.SequentialSampler),
        (torch_data.DataLoader(items(), 4, sampler=weighted), torch_data.WeightedRandomSampler),
    ):
        found, said = opened(loader, COLOUR, "x")
        assert isinstance(found, Indexed)
        assert said.sampler is None if expected is None else isinstance(said.sampler, expected)
    batches = torch_data.BatchSampler(torch_data.SequentialSampler(range(8)), 4, False)
    own = type("Own", (torch_data.BatchSampler,), {})(batches.sampler, 4, False)
    with pytest.raises(DataError, match="custom batch_sampler"):
        opened(torch_data.DataLoader(items(), batch_sampler=own), COLOUR, "x")


def test_what_is_held_and_what_is_read() -> None:
    tensors = (torch.stack([PIXELS] * 4), torch.tensor([0, 1, 0, 1]))
    assert isinstance(opened(tensors, COLOUR, "x")[0], Dataset)
    assert isinstance(opened(tensors, COLOUR, "x", in_memory=False)[0], Indexed)
    assert isinstance(opened(items(), COLOUR, "x")[0], Indexed)
    assert isinstance(opened(items(), COLOUR, "x", in_memory=True)[0], Dataset)
    few = held(Indexed("x", items(50)), COLOUR, most=10)
    assert len(few) == 10
    assert torch.equal(few.labels, held(Indexed("x", items(50)), COLOUR, most=10).labels)


def numbered(count: int = 8) -> tuple[Tensor, Tensor]:
    return torch.stack([PIXELS * 0 + i for i in range(count)]), torch.arange(count) % 2


@pytest.mark.parametrize("held_first", [True, False])
def test_a_measured_set_has_the_images_of_its_sampler(held_first: bool) -> None:
    images, labels = numbered()
    given = torch_data.TensorDataset(images, labels) if held_first else list(zip(images, labels, strict=True))

    def seen(sampler: Any = None, **more: Any) -> list[int]:
        loader = torch_data.DataLoader(given, 4, sampler=sampler, **more)  # type: ignore[arg-type]
        return measured(loader, COLOUR, "val_set").images[:, 0, 0, 0].tolist()

    assert seen() == seen(shuffle=True) == list(range(8))
    assert seen(torch_data.SubsetRandomSampler([6, 3, 7])) == [3, 6, 7]
    assert seen(torch_data.SequentialSampler(range(3))) == [0, 1, 2]
    weighted = torch_data.WeightedRandomSampler([0.0] * 4 + [1.0] * 4, 6, generator=torch.Generator())
    assert seen(weighted) == seen(weighted)
    assert len(seen(weighted)) == 6
    assert min(seen(weighted)) >= 4
    with pytest.raises(DataError, match="val_set: the sampler gave indices from 8 to 8 for 8 images"):
        seen(torch_data.SubsetRandomSampler([8]))
    with pytest.raises(DataError, match="val_set: the sampler SubsetRandomSampler gives no images"):
        seen(torch_data.SubsetRandomSampler([]))
    with pytest.raises(DataError, match="leave the DistributedSampler out"):
        seen(torch_data.DistributedSampler(given, 2, 0))  # type: ignore[arg-type]


def test_names_of_classes() -> None:
    assert class_names(items()) is None
    assert class_names(Dataset("x", PIXELS[None], torch.tensor([0]), ("a", "b"))) == ("a", "b")
    named = type("Named", (), {"classes": ["a", "b"]})()
    assert class_names(named) == ("a", "b")


def test_classes_of_the_model_in_another_order_are_refused() -> None:
    """Folders sort their classes; a model may have been trained with them in another order."""
    pairs = [(PIXELS, 0), (PIXELS, 1)]
    own = Dataset("mine", torch.stack([PIXELS, PIXELS]), torch.tensor([0, 1]), ("dog", "cat"))
    foreign = type("Foreign", (list,), {"classes": ["dog", "cat"]})(pairs)
    for given in (own, foreign, torch_data.Subset(foreign, [0]), torch_data.DataLoader(foreign)):
        with pytest.raises(DataError, match="val_set has the classes of the model in another order: from label 0"):
            measured(given, COLOUR, "val_set")
        # The caller named the classes (`classes=`), whatever the data set calls them.
        assert opened(given, COLOUR, "train_set")
        assert measured(given, replace(COLOUR, renamed=True), "val_set").classes == COLOUR.classes
    foreign.target_transform = lambda label: 1 - label
    assert len(measured(foreign, COLOUR, "val_set")) == 2
    foreign.classes, foreign.target_transform = ["hound", "cat"], None
    assert len(measured(foreign, COLOUR, "val_set")) == 2


def test_numbers_are_no_names_of_classes() -> None:
    """A model without class names has numbers; folders "0" to "10" are sorted as text."""
    numbers = tuple(str(i) for i in range(11))
    check_order("folder", sorted(numbers), numbers)
    check_order("data", numbers, tuple(sorted(numbers)))
    with pytest.raises(DataError, match="in another order"):
        check_order("folder", ("10", "1"), ("1", "10"))


class Noise(torch_data.Dataset[tuple[Tensor, int]]):
    """Images drawn by torch's, NumPy's and Python's generators; the label 7 at index 5."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        drawn = int(torch.randint(0, 90, ())) + np.random.randint(80) + random.randint(0, 80)  # noqa: NPY002
        return PIXELS * 0 + drawn, 7 if index == 5 else 0


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_is_drawn_by_its_place_in_the_run(workers: int) -> None:
    def read(first: int) -> list[int]:
        draws = [[(number, number % 4)] for number in range(first, 6)]
        found = read_indexed(Indexed("x", Noise()), draws, COLOUR, seed=3, workers=workers, pin=False)
        return [int(images[0, 0, 0, 0]) for images, _ in found]

    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    whole = read(0)
    assert whole[4:] == read(4)
    assert len(set(whole)) > 3
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    draws = [[(0, 5)]]
    with pytest.raises(DataError, match=r"^x, item 5: labels from 7 to 7, but the model has 2 classes, 0 to 1$"):
        list(read_indexed(Indexed("x", Noise()), draws, COLOUR, seed=3, workers=workers, pin=False))


class Counted:
    """An iterable that is told the epoch."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Any:
        for _ in range(3):
            yield PIXELS * 0 + int(torch.randint(0, 250, ())), 1


def test_an_iterable_is_told_the_epoch_and_draws_by_it() -> None:
    source = Counted()

    def read(epoch: int) -> list[int]:
        return [int(x[0, 0, 0]) for x, _ in read_flow(Flow("x", source), COLOUR, seed=0, epoch=epoch, workers=0)]

    assert read(0) == read(0)
    assert read(0) != read(1)
    assert source.epochs == [0, 0, 0, 1]
    with pytest.raises(DataError, match="workers need a torch IterableDataset"):
        read_flow(Flow("x", source), COLOUR, seed=0, epoch=0, workers=1)


def test_seeded_restores_all_three_generators() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    with seeded(1):
        first = drawn()
    outside = drawn()
    with seeded(1):
        assert drawn() == first
    assert drawn() != outside


def test_a_part_of_a_set_keeps_what_the_set_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts of a test split passed every guard, and the file of a model had no preprocessing."""
    images, labels = numbered()
    test = Dataset("x", images, labels, ("a", "b"), "test")
    part, _ = torch_data.random_split(torch_data.Subset(test, [1, 3, 5, 7]), [2, 2])  # type: ignore[arg-type]
    found, _ = opened(part, COLOUR, "x")
    assert isinstance(found, Dataset)
    assert found.split == "test"
    assert sorted(found.images[:, 0, 0, 0].tolist()) == sorted(2 * i + 1 for i in part.indices)
    streamed, _ = opened(test, COLOUR, "x", in_memory=False)
    assert isinstance(streamed, Indexed)
    assert streamed.split == "test"

    for half in ("train", "test"):
        for name in "ab":
            (tmp_path / half / name).mkdir(parents=True)
            Image.new("RGB", (6, 4)).save(tmp_path / half / name / "1.png")
    rule = Preprocessing(size=(4, 6))
    _, folder = read_folder(tmp_path, rule, in_memory=False)
    loader = torch_data.DataLoader(torch_data.Subset(folder, [1]), 1)  # type: ignore[arg-type]
    assert rule_of(loader) == rule
    assert class_names(loader) == ("a", "b")
    few, _ = opened(loader, COLOUR, "x")
    assert isinstance(few, Indexed)
    assert (few.split, len(few)) == ("test", 1)

    foreign = type("Foreign", (list,), {"classes": ["a", "b"]})(items())
    assert class_names(torch_data.Subset(foreign, [0])) == ("a", "b")
    with pytest.raises(DataError, match="x is empty"):
        opened(torch_data.Subset(test, []), COLOUR, "x")  # type: ignore[arg-type]
    with monkeypatch.context() as patched:  # its names and its rule need no copy of its images
        patched.delattr(Dataset, "only")
        assert class_names(part) == ("a", "b")
        assert rule_of(part) is None
