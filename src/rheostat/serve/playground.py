"""The playground: a page to turn the dials by hand and see an image, an adversarial version, and both predictions.

For loopback only: it sets the dial freely, which the service never lets a client do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from fastapi import FastAPI
from PIL import Image

from rheostat import data
from rheostat.attacks import named
from rheostat.data import Dataset, Preprocessing
from rheostat.deploy.leaving import WHOLE, Weights, mean_latency
from rheostat.deploy.named_points import own_rows, rows_path
from rheostat.evaluation.attacked import attack_chunk, victim_at
from rheostat.models import artifact, zoo
from rheostat.models.costs import exit_costs, live_exits, observe
from rheostat.models.tunable import Tunable
from rheostat.points.dial import Dial
from rheostat.points.point import Point
from rheostat.serve.measured import Measured, curve, from_index, from_rows, nearest_text

log = logging.getLogger("rheostat.serve")

PATH = "/playground"
SHOWN = 224
"""Pixels of an image on the page."""
SEARCHED = 64
"""Number of test images that the page searches for its first example."""


def mount(web: FastAPI, file: str, *, data_dir: Path | None = None, net: str | None = None) -> FastAPI:
    """The application with the playground mounted."""
    model, about = artifact.load_with(file, net=net)
    model.to("cpu")  # the factory of a network may put it on a GPU
    own = artifact.digest(file)
    line = from_rows(own_rows(rows_path(file), own)) or from_index(zoo.by_digest(own))
    page = build(model, about, line, _test(about, data_dir))
    return gr.mount_gradio_app(web, page, path=PATH)


def _test(about: artifact.About, data_dir: Path | None) -> Dataset | None:
    """The test set of the model's recipe; None without a recipe, and if it cannot be read, which is logged."""
    recipe = about.provenance.get("recipe", {}).get("data", {})
    if recipe.get("name") is None:
        return None
    rule, verify = about.preprocessing, recipe.get("verify", True)
    try:
        return data.load(recipe["name"], folder=data_dir, verify=verify, preprocessing=rule)[1]
    except ValueError as error:
        log.warning("the playground has no test images, but takes uploaded ones: %s", error)
        return None


def build(model: Tunable, about: artifact.About, line: list[Measured], test: Dataset | None) -> gr.Blocks:
    """The page: one control per dial, an image, and the model's predictions at that point."""
    classes = about.classes or tuple(str(i) for i in range(model.net.classes))
    eps = float(about.threat.get("eps", 0.1))
    dials = list(model.dials.values())
    look = viewer(model, classes, about, line, test)
    first = opening(model, about, test)
    with gr.Blocks(title="Rheostat playground") as page:
        gr.Markdown("# Rheostat\nOne network. Turn a dial and see how accuracy, robustness and cost change.")
        with gr.Row():
            with gr.Column():
                controls = [_control(d) for d in dials]
                radius = gr.Slider(0, 2 * eps, eps, label="attack radius eps", elem_id="eps")
                number = gr.Number(
                    first,
                    precision=0,
                    minimum=0,
                    label="image of the test set",
                    elem_id="number",
                    visible=test is not None,
                )
                upload = upload_field()
            with gr.Column():
                with gr.Row():
                    clean = gr.Image(label="clean", height=SHOWN, interactive=False)
                    moved = gr.Image(label="adversarial", height=SHOWN, interactive=False)
                    change = gr.Image(label="δ, scaled", height=SHOWN, interactive=False)
                with gr.Row():
                    said = gr.Label(label="clean", num_top_classes=3, elem_id="said")
                    fooled = gr.Label(label="adversarial", num_top_classes=3, elem_id="fooled")
                cost = gr.Markdown(elem_id="cost")
                near = gr.Markdown(elem_id="near")
                plot = gr.Plot(show_label=False)
        inputs = [upload, number, radius, *controls]
        outputs = [clean, moved, change, said, fooled, cost, near, plot]
        for control in inputs:
            control.change(look, inputs, outputs, show_progress="hidden", api_visibility="private")
        page.load(look, inputs, outputs, show_progress="hidden", api_visibility="private")
    return page


def upload_field() -> Any:
    """The upload field. It returns the path of the unchanged file, which is then read as the service reads images."""
    return gr.Image(type="filepath", image_mode=None, label="or your own image", height=160)


def _control(dial: Dial) -> Any:
    if dial.values is not None:
        return gr.Radio(list(dial.values), value=dial.rest, label=dial.name, elem_id=f"dial-{dial.name}")
    return gr.Slider(dial.low, dial.high, dial.rest, step=0.01, label=dial.name, elem_id=f"dial-{dial.name}")


def viewer(
    model: Tunable, classes: tuple[str, ...], about: artifact.About, line: list[Measured], test: Dataset | None
) -> Callable[..., tuple[Any, ...]]:
    """The function that recomputes the page after every change: images, both predictions, cost, curve."""
    norm = about.threat.get("norm", "linf")
    rule = about.preprocessing or stretched(model.net.image)

    def look(upload: str | None, number: float, radius: float, *values: float) -> tuple[Any, ...]:
        point = Point(**{d.name: float(v) for d, v in zip(model.dials.values(), values, strict=True)})
        try:
            x, label = picked(upload, int(number or 0), test, rule)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        with torch.no_grad():
            before = model(x, point).softmax(1)
        truth = torch.tensor([int(before.argmax()) if label is None else label])
        found = attack_chunk(victim_at(model, point), x, truth, named("pgd10", eps=radius, norm=norm), (0, "look"))
        with torch.no_grad():
            after = model(found.adversarial, point).softmax(1)
        cost = _cost(model, point, x)
        truth_text = "" if label is None else f"; its label is **{classes[label]}**"
        if label is not None and int(before.argmax()) != label:
            truth_text = f"; its label is **{classes[label]}**: already wrong, so there is nothing to attack"
        text = f"**{point.label()}**: {cost}{truth_text}."
        return (
            _shown(x),
            _shown(found.adversarial),
            _shown(_change(x, found.adversarial)),
            _scores(before, classes),
            _scores(after, classes),
            text,
            nearest_text(line, point),
            curve(line, point),
        )

    return look


def _cost(model: Tunable, point: Point, x: torch.Tensor) -> str:
    """What an image (1, C, H, W) costs at a point; where exits are live, what this one costs, by where it leaves."""
    leave = None
    if count := live_exits(model, point):
        with torch.no_grad():
            taken = model.read(x, model.resolve(point, x)).taken
        assert taken is not None
        leave = int(taken[0])
    macs = observe(model, model.net.image, point).macs if leave is None else exit_costs(model, point).macs[leave]
    weights: Weights = WHOLE if leave is None else {leave: 1.0}
    took = mean_latency({"x": model.at(point)}, {"x": weights}, model.net.image, seconds=0.02)["x"].median
    which = "an image here" if leave is None else f"here for this image, which leaves at exit {leave + 1} of {count}"
    return f"{macs / 1e6:.2f} M MACs, {took:.2f} ms {which}"


def stretched(image: tuple[int, int, int]) -> Preprocessing:
    """The default rule for an image of another size if the model file states none; the service uses the same."""
    return Preprocessing(image[1:], "stretch", "L" if image[0] == 1 else "RGB")


def picked(
    upload: str | None, number: int, test: Dataset | None, rule: Preprocessing
) -> tuple[torch.Tensor, int | None]:
    """(x (1, C, H, W) in [0, 1], its label or None): the uploaded file, else a test image, else a grey image."""
    if upload is not None:
        return data.to_pixels(rule.read(Path(upload)))[None], None
    if test is None:
        return torch.full((1, *rule.image), 0.5), None
    place = number % len(test)
    return data.to_pixels(test.images[place : place + 1]), int(test.labels[place])


def _shown(x: torch.Tensor) -> Image.Image:
    pixels = (x[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    plain = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    return plain.resize((SHOWN, SHOWN), Image.Resampling.NEAREST)


def _scores(probabilities: torch.Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    return {c: float(p) for c, p in zip(classes, probabilities[0], strict=True)}


def _change(clean: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
    """δ around mid-grey, scaled so that its largest value is black or white; (1, C, H, W) in [0, 1]."""
    delta = moved - clean
    return 0.5 + 0.5 * delta / delta.abs().max().clamp_min(1e-6)


def opening(model: Tunable, about: artifact.About, test: Dataset | None) -> int:
    """The index of a test image that shows the dial at work, among the first ones.

    At the rest point it is classified correctly and the attack changes that; at the robust end it withstands it.
    If there is none, an image of which only the first is true; then one that is classified correctly; otherwise 0.
    """
    if test is None:
        return 0
    rest = Point(**{d.name: d.rest for d in model.dials.values()})
    right, holds = _withstood(model, about, test, rest)
    kinds = [right & ~holds, right]
    if "robustness" in model.dials:
        robust = rest.replace(robustness=model.dials["robustness"].high)
        kinds.insert(0, kinds[0] & _withstood(model, about, test, robust)[1])
    for wanted in kinds:
        if bool(wanted.any()):
            return int(wanted.nonzero()[0, 0])
    return 0


def _withstood(model: Tunable, about: artifact.About, test: Dataset, point: Point) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of the first test images are right at a point, and which remain right under the attack of the page."""
    x, labels = data.to_pixels(test.images[:SEARCHED]), test.labels[:SEARCHED]
    attack = named("pgd10", eps=float(about.threat.get("eps", 0.1)), norm=about.threat.get("norm", "linf"))
    found = attack_chunk(victim_at(model, point), x, labels, attack, (0, "look"))
    with torch.no_grad():
        right = model(x, point).argmax(1) == labels
        return right, right & (model(found.adversarial, point).argmax(1) == labels)
