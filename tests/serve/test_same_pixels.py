"""One photo, one tensor: folder, service, playground and evaluation make the same pixels of it, bit for bit."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import rheostat
from rheostat import data
from rheostat.data import Preprocessing
from rheostat.data.images import RESIZES
from rheostat.deploy.exporting import describe
from rheostat.evaluation.lookup import find_data, find_target
from rheostat.models import artifact
from rheostat.points.point import Point
from rheostat.serve.decoding import Limits, decode
from rheostat.serve.workers import Decoders

FEW = {"attack": {"steps": 1}, "select": {"images": 4, "steps": 1}, "calibrate_dial": False, "device": "cpu"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A tree of JPEGs of two sizes, neither of them the network's."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / half / name
            folder.mkdir(parents=True)
            for i, (width, height) in enumerate(((70, 50), (41, 64))):
                pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((width, height)).save(folder / f"{i}.jpg", quality=90)
    return root


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_folder_service_and_playground_give_the_same_tensor(photos: Path, resize: str, mode: str) -> None:
    pytest.importorskip("gradio")
    from rheostat.serve.playground import picked

    rule = Preprocessing((24, 32), resize, mode)
    train, _ = data.load(f"folder:{photos}", preprocessing=rule)
    files = [photos / "train" / name / f"{i}.jpg" for name in ("cat", "dog") for i in (0, 1)]
    decoders = Decoders(1)
    try:
        for file, image in zip(files, data.to_pixels(train.images), strict=True):
            asked = (file.read_bytes(), "image/jpeg", rule.image, Limits(), resize)
            assert torch.equal(torch.from_numpy(decode(*asked))[0], image)
            assert torch.equal(torch.from_numpy(asyncio.run(decoders.decode(*asked)))[0], image)
            assert torch.equal(picked(str(file), 0, None, rule)[0][0], image)
    finally:
        decoders.close()


def make_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 2),
    )


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory) -> tuple[Path, Preprocessing]:
    """A model's file of a run on these photos, written by the model itself."""
    rule = Preprocessing((24, 32), "pad")
    train, test = data.load(f"folder:{photos}", preprocessing=rule)
    out = tmp_path_factory.mktemp("runs") / "x"
    model = rheostat.adopt(make_net, "dual", image=rule.image)
    validation = replace(test, split="calibrate-fit")
    rheostat.fit(model, train, validation, eps="8/255", epochs=1, batch=2, out=out, **FEW)
    path = model.save(out.parent / "mine.safetensors")
    for file in (path, out / "model.safetensors"):
        about = artifact.load_with(file, net=make_net)[1]
        assert (about.preprocessing, about.classes) == (rule, ("cat", "dog"))
        assert about.threat["eps"] == pytest.approx(8 / 255)
    return path, rule


def test_the_rule_travels_with_the_file(trained, photos: Path, tmp_path: Path) -> None:
    path, rule = trained
    again = rheostat.load(path, net=make_net)
    copy = artifact.load_with(again.save(tmp_path / "copy.safetensors"), net=make_net)[1]
    assert (copy.preprocessing, copy.classes) == (rule, ("cat", "dog"))
    assert copy.provenance == {}, "weights may have changed since they were trained"
    described = describe(again, copy, Point(robustness=1.0), None, "")["preprocessing"]
    assert json.loads(json.dumps(described)) == {
        "image": [3, 24, 32],
        "range": [0.0, 1.0],
        "layout": "NCHW",
        "normalised": "inside the file",
        "size": [24, 32],
        "resize": "pad",
        "mode": "RGB",
    }


def test_an_evaluation_reads_images_by_the_models_rule(trained, photos: Path) -> None:
    path, rule = trained
    target = replace(
        find_target("oat-digits", name=None, between=None), about=artifact.load_with(path, net=make_net)[1]
    )
    found = find_data(target, f"folder:{photos}", "test", data_dir=None, examples=None, verify=True)
    assert torch.equal(found.images, data.load(f"folder:{photos}", preprocessing=rule)[1].images)


def test_the_service_answers_as_the_model_does_on_the_folders_pixels(trained, photos: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from rheostat.serve.app import make_app
    from rheostat.serve.backends import service
    from rheostat.serve.policy import Policy

    path, rule = trained
    model = rheostat.load(path, net=make_net)
    artifact.name_point(path, "safe", Point(robustness=1.0), {}, net=make_net)
    served = service(str(path), backend="torch", net=f"{__name__}:make_net")
    assert served.resize == "pad"
    file = photos / "test" / "dog" / "1.jpg"
    with TestClient(make_app(served, Policy(("safe",), 50.0, None))) as client:
        answer = client.post("/v1/predict", content=file.read_bytes(), headers={"content-type": "image/jpeg"}).json()
    expected = model.at(robustness=1.0).probabilities(data.to_pixels(rule.read(file))[None])
    assert answer["probabilities"][0] == pytest.approx(expected[0].tolist(), abs=2e-6)


def test_a_rule_that_does_not_fit_its_network_is_refused(trained, tmp_path: Path) -> None:
    from rheostat.runtime.files import read_tensors, write_tensors

    tensors, found = read_tensors(trained[0])
    for change, message in (
        ({"size": [24, 33]}, "preprocessing gives images of 3 × 24 × 33, but the network takes 3 × 24 × 32"),
        ({"size": [24, 0]}, r"preprocessing\.size"),
        ({"resize": "cut"}, r"preprocessing\.resize"),
        ({"sharpen": 1}, r"preprocessing\.sharpen"),
    ):
        write_tensors(tmp_path / "x.safetensors", tensors, found | {"preprocessing": found["preprocessing"] | change})
        with pytest.raises(ValueError, match=message):
            rheostat.load(tmp_path / "x.safetensors", net=make_net)


def test_two_rules_in_one_run_are_refused(photos: Path, tmp_path: Path) -> None:
    train, _ = data.load(f"folder:{photos}", preprocessing=Preprocessing((24, 32)))
    _, other = data.load(f"folder:{photos}", preprocessing=Preprocessing((24, 32), "pad"))
    model = rheostat.adopt(make_net, "dual", image=(3, 24, 32))
    with pytest.raises(ValueError, match="one preprocessing goes into the model's file"):
        rheostat.fit(model, train, replace(other, split=""), eps="8/255", epochs=1, out=tmp_path / "x")


def test_pillow_images_of_a_users_data_set_take_the_rule_too(tmp_path: Path) -> None:
    images = [Image.new("L", (10 + i, 30), 20 * i) for i in range(8)]
    pairs = [(image, i % 2) for i, image in enumerate(images)]
    rule = Preprocessing((24, 32), "stretch")
    model = rheostat.adopt(make_net, "dual", image=rule.image)
    run = rheostat.fit(model, pairs, pairs, eps=0.1, epochs=1, batch=4, out=tmp_path / "x", preprocessing=rule, **FEW)
    assert run.about.preprocessing == rule


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Gradio leaves the file open for a moment
def test_the_playground_gets_the_file_that_was_uploaded_and_not_a_turned_copy(tmp_path: Path) -> None:
    """Gradio turns a photo as its camera noted (EXIF); the service does not, so neither may the page."""
    pytest.importorskip("gradio")
    from gradio.data_classes import ImageData

    from rheostat.serve.playground import picked, stretched, upload_field

    exif = Image.Exif()
    exif[274] = 6  # turned by 90°
    file = tmp_path / "photo.jpg"
    Image.fromarray(np.arange(20 * 30, dtype=np.uint8).reshape(20, 30)).save(file, exif=exif)
    model = rheostat.load("oat-digits")
    given = upload_field().preprocess(ImageData(path=str(file), orig_name="photo.jpg"))
    x, _ = picked(given, 0, None, stretched(model.net.image))
    assert torch.equal(x, torch.from_numpy(decode(file.read_bytes(), "image/jpeg", model.net.image, Limits())))


def test_a_file_without_a_rule_says_nothing_of_one(tmp_path: Path) -> None:
    """So earlier versions read it; and files that they wrote load."""
    from rheostat.runtime.files import read_tensors

    model, about = artifact.load_with("oat-digits")
    assert about.preprocessing is None
    assert "preprocessing" not in read_tensors(model.save(tmp_path / "x.safetensors"))[1]
    assert "resize" not in describe(model, about, Point(robustness=1.0), None, "")["preprocessing"]
