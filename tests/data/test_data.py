"""Readers: true formats written by the tests, and files that are damaged in every common way."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from rheostat import data
from rheostat.data import (
    DataError,
    augment,
    base,
    cifar,
    idx,
    make_splits,
    stl10,
    stratified,
    subset,
    svhn,
    tiny_imagenet,
)

RNG = np.random.default_rng(0)


def idx_bytes(array: np.ndarray) -> bytes:
    magic = struct.pack(">BBBB", 0, 0, 8, array.ndim)
    return magic + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    folder = tmp_path / "mnist"
    folder.mkdir()
    for prefix, n in (("train", 30), ("t10k", 10)):
        images = RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        labels = np.arange(n, dtype=np.uint8) % 10
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx_bytes(array)))
    return tmp_path


def test_idx(mnist: Path) -> None:
    train, test = data.load("mnist", folder=mnist, verify=False)
    assert (len(train), len(test), train.image) == (30, 10, (1, 28, 28))
    assert train.labels[:3].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-50], "not a complete gzip"),
        (lambda raw: b"hello", "not a complete gzip"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:-5]), "expected 23536"),
        (lambda raw: gzip.compress(b"\0\0\x0d\x03" + gzip.decompress(raw)[4:]), "0x00000d03"),
        (lambda raw: gzip.compress(gzip.decompress(raw)[:9]), "shorter than its header"),
        (lambda raw: gzip.compress(idx_bytes(np.zeros(30, np.uint8))), "idx1 file, expected idx3"),
        (lambda raw: gzip.compress(idx_bytes(np.zeros((29, 28, 28), np.uint8))), "29 images but 30"),
    ],
)
def test_a_damaged_idx_file_is_named(mnist: Path, damage, message: str) -> None:
    path = mnist / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        data.load("mnist", folder=mnist, verify=False)
    assert str(path) in str(error.value) or "mnist: " in str(error.value)


def test_checksums_are_compared_and_can_be_waived(mnist: Path) -> None:
    with pytest.raises(DataError, match=r"md5 .* expected f68b3c2d.*--no-verify"):
        data.load("mnist", folder=mnist)


def test_missing_files_and_names(mnist: Path) -> None:
    (mnist / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte"):
        data.load("mnist", folder=mnist, verify=False)
    with pytest.raises(DataError, match="no folder"):
        data.load("svhn", folder=mnist, fetch=False)
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        data.load("minst")


def cifar_folder(tmp_path: Path, monkeypatch, *, python: bool) -> Path:
    """A true CIFAR-10 layout with 20 images a batch instead of 10 000."""
    inside = tmp_path / ("cifar-10-batches-py" if python else "cifar-10-batches-bin")
    inside.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        pixels = RNG.integers(0, 256, (10_000, 3072), dtype=np.uint8)
        labels = np.arange(10_000) % 10
        if python:
            batch = {b"data": pixels, b"labels": labels.tolist(), b"batch_label": b"x"}
            (inside / name).write_bytes(pickle.dumps(batch, protocol=2))
        else:
            table = np.concatenate([labels[:, None].astype(np.uint8), pixels], 1)
            (inside / f"{name}.bin").write_bytes(table.tobytes())
    return tmp_path


@pytest.mark.parametrize("python", [True, False])
def test_cifar10_and_its_damage(tmp_path: Path, monkeypatch, python: bool) -> None:
    folder = cifar_folder(tmp_path, monkeypatch, python=python)
    train, test = cifar.cifar10(sums={})(folder)
    assert (len(train), len(test), train.image) == (50_000, 10_000, (3, 32, 32))
    assert train.labels[:11].tolist() == [*range(10), 0]
    name = "cifar-10-batches-py/data_batch_3" if python else "cifar-10-batches-bin/data_batch_3.bin"
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1000])
    with pytest.raises(DataError, match="data_batch_3"):
        cifar.cifar10(sums={})(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match="no data_batch_3"):
        cifar.cifar10(sums={})(folder)


class Bomb:
    ran = False

    def __reduce__(self):
        return (exec, ("from test_data import Bomb; Bomb.ran = True",))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_with_anything_but_data_is_refused_before_it_runs(tmp_path, protocol: int) -> None:
    path = tmp_path / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": np.zeros(3, np.uint8), b"x": Bomb()}, protocol))
    with pytest.raises(DataError, match=r"refused, holds .*exec"):
        cifar.read_pickle(path)
    assert not Bomb.ran
    path.write_bytes(pickle.dumps({b"data": np.zeros((2, 3), np.uint8), b"labels": [1, 2]}, protocol))
    assert cifar.read_pickle(path)["labels"] == [1, 2]
    path.write_bytes(pickle.dumps([1, 2], protocol))
    with pytest.raises(DataError, match="holds a list"):
        cifar.read_pickle(path)


def test_cifar100_binary(tmp_path: Path) -> None:
    inside = tmp_path / "cifar-100-binary"
    inside.mkdir()
    for name, n in (("train", 50_000), ("test", 10_000)):
        table = np.zeros((n, 3074), np.uint8)
        table[:, 0], table[:, 1] = 3, np.arange(n) % 100
        (inside / f"{name}.bin").write_bytes(table.tobytes())
    train, test = cifar.cifar100(sums={})(tmp_path)
    assert len(train.classes) == 100
    assert train.labels[98:102].tolist() == [98, 99, 0, 1]
    assert len(test) == 10_000


def test_svhn(tmp_path: Path) -> None:
    from scipy.io import savemat

    for half, n in (("train", 12), ("test", 6)):
        images = RNG.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        labels = (np.arange(n) % 10 + 1)[:, None].astype(np.uint8)
        savemat(tmp_path / f"{half}_32x32.mat", {"X": images, "y": labels})
    train, _ = svhn.read(tmp_path)
    assert train.labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert train.image == (3, 32, 32)
    savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1))})
    with pytest.raises(DataError, match="float64, expected"):
        svhn.read(tmp_path)
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB")
    with pytest.raises(DataError, match=r"test_32x32.mat: not a complete"):
        svhn.read(tmp_path)


def test_stl10(tmp_path: Path) -> None:
    for half in ("train", "test"):
        images = np.zeros((4, 3, 96, 96), np.uint8)
        images[0, 0, 5, 0] = 9  # column-major: column 5, row 0
        (tmp_path / f"{half}_X.bin").write_bytes(images.tobytes())
        (tmp_path / f"{half}_y.bin").write_bytes(bytes([1, 2, 10, 1]))
    train, _ = stl10.read(tmp_path)
    assert int(train.images[0, 0, 0, 5]) == 9
    assert train.labels.tolist() == [0, 1, 9, 0]
    (tmp_path / "test_X.bin").write_bytes(b"\0" * 100)
    with pytest.raises(DataError, match="expected 110592"):
        stl10.read(tmp_path)


def write_png(path: Path, size: int = 8, value: int = 0) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, 0, 0)).save(path)


def test_folders_and_tiny_imagenet(tmp_path: Path) -> None:
    for half in ("train", "test"):
        for i, name in enumerate(("cat", "dog")):
            write_png(tmp_path / "own" / half / name / "a.png", value=i)
    train, test = data.load(f"folder:{tmp_path / 'own'}")
    assert train.classes == ("cat", "dog")
    assert test.images[:, 0, 0, 0].tolist() == [0, 1]
    write_png(tmp_path / "own" / "train" / "dog" / "b.png", size=9)
    with pytest.raises(DataError, match=r"b\.png: \(3, 9, 9\), expected \(3, 8, 8\)"):
        data.load(f"folder:{tmp_path / 'own'}")
    (tmp_path / "own" / "train" / "dog" / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: not a readable image"):
        data.load(f"folder:{tmp_path / 'own'}")

    root = tmp_path / "tiny" / "tiny-imagenet-200"
    for name in ("n01", "n02"):
        write_png(root / "train" / name / "images" / f"{name}_0.png", 64)
    write_png(root / "val" / "images" / "val_0.png", 64)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "val" / "val_annotations.txt").write_text("val_0.png\tn02\t0\t0\t1\t1\n")
    train, test = tiny_imagenet.read(tmp_path / "tiny")
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [1])
    (root / "val" / "val_annotations.txt").write_text("val_0.png\tn03\n")
    with pytest.raises(DataError, match="line 1 does not name a known class"):
        tiny_imagenet.read(tmp_path / "tiny")


def test_labels_are_whole_numbers_in_one_row() -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    assert data.Dataset("x", images, torch.tensor([0, 1], dtype=torch.uint8), ("a", "b")).labels.dtype == torch.int64
    for labels in (torch.tensor([0.0, 1.0]), torch.tensor([[0], [1]]), torch.tensor([True, False])):
        with pytest.raises(DataError, match=r"x: labels must be \(N,\) whole numbers, given torch"):
            data.Dataset("x", images, labels, ("a", "b"))


def test_splits_are_disjoint_stratified_and_deterministic() -> None:
    train, test = data.load("digits")
    a = make_splits(train, test, calibrate=200, limit=1000)
    b = make_splits(train, test, calibrate=200, limit=1000)
    assert [len(s) for s in (a.train, a.fit, a.choose, a.test)] == [1000, 100, 100, 360]
    assert torch.equal(a.fit.images, b.fit.images)
    parts = stratified(train.labels, (1000, 100, 100), seed=0)
    rows = torch.cat(parts)
    assert len(rows.unique()) == len(rows)
    share = train.labels.bincount() / len(train)
    for part in parts:
        assert (train.labels[part].bincount(minlength=10) - share * len(part)).abs().max() <= 1.5
    assert len(subset(test, 50)) == 50
    assert subset(test, None) is test
    for options in ({"calibrate": 3}, {"calibrate": 200, "limit": 2000}):
        with pytest.raises(ValueError, match=r"calibrate|train_images"):
            make_splits(train, test, **options)
    for count, there in ((2000, 1437), (1436, 1436)):
        few = train.only(torch.arange(there))
        with pytest.raises(ValueError, match=rf"calibrate is {count}, but digits has only {there} training images"):
            make_splits(few, test, calibrate=count)


def test_augmentation_is_a_crop_of_the_padded_image_and_shares_a_batch() -> None:
    images = torch.randint(0, 256, (8, 1, 8, 8), dtype=torch.uint8)
    whole = augment(images, "crop-flip", torch.Generator().manual_seed(0), padding=2)
    part = augment(images[4:], "crop-flip", torch.Generator().manual_seed(0), padding=2, rows=slice(4, 8), batch=8)
    assert torch.equal(whole[4:], part)
    padded = torch.nn.functional.pad(images, (2,) * 4)
    for image, source in zip(whole, padded, strict=True):
        crops = [source[:, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
        assert any(torch.equal(image, c) or torch.equal(image, c.flip(2)) for c in crops)
    assert augment(images, "none", torch.Generator()) is images


def test_every_remote_has_a_checksum_of_an_md5() -> None:
    for remotes in (source.remotes for source in data.DATASETS.values()):
        assert all(len(r.md5) == 32 and int(r.md5, 16) for r in remotes)


@pytest.mark.data
@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_the_real_files_have_the_published_checksums(real_data: Path, name: str) -> None:
    train, test = data.load(name, folder=real_data, fetch=False)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels.bincount().min() > 5000
    assert idx.DIGITS[0] == "0"


def test_a_download_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    asked: list[str] = []

    def retrieve(url: str, *, path: Path, fname: str, **_: object) -> None:
        asked.append(fname)
        Path(path).mkdir(exist_ok=True)
        if len(asked) == 2:
            raise OSError("no route")
        (Path(path) / fname).touch()

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(DataError, match="could not download"):
        data.load("svhn", folder=tmp_path, verify=False)
    with pytest.raises(DataError, match=r"not a complete \.mat file"):
        data.load("svhn", folder=tmp_path, verify=False)
    assert asked == ["train_32x32.mat", "test_32x32.mat"] * 2
    assert sorted(p.name for p in (tmp_path / "svhn").iterdir()) == ["test_32x32.mat", "train_32x32.mat"]
    assert not (tmp_path / "svhn.part").exists()


@pytest.mark.parametrize("count", [1, 10, 25])
def test_statistics_need_no_copy_of_the_images(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 3, 5, 4), dtype=torch.uint8, generator=generator)
    images[:, 2] = 7
    pixels = images.double() / 255
    mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3), correction=0).clamp_min(0.01)
    monkeypatch.setattr(base, "HISTOGRAM_IMAGES", 10)
    monkeypatch.setattr(torch.Tensor, "double", None, raising=False)
    found = data.Dataset("made", images, torch.zeros(count, dtype=torch.int64), ("a",)).statistics()
    assert found == tuple(tuple(round(v, 4) for v in values.tolist()) for values in (mean, std))


def test_no_images_have_no_statistics() -> None:
    none = data.Dataset("made", torch.empty(0, 1, 2, 2, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
    with pytest.raises(DataError, match="made is empty"):
        none.statistics()
