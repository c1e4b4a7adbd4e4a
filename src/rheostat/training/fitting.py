"""`fit`: train any tunable model on any images, with the same loop as recipes."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DistributedSampler

from rheostat.attacks import Attack
from rheostat.data import Dataset, Preprocessing
from rheostat.data.conversion import Form
from rheostat.data.given import Flow, Given, Loader, batch_of, class_names, measured, opened, rule_of
from rheostat.methods.mixednuts import Nonlinearity
from rheostat.models import artifact
from rheostat.models.tunable import Tunable
from rheostat.nets.adopted import Adopted
from rheostat.runtime.distributed import Ranks, device_named, join
from rheostat.runtime.files import alone
from rheostat.training.feed import Feed
from rheostat.training.loop import Job, fingerprint, perform
from rheostat.training.optimisers import frozen
from rheostat.training.options import FitOptions, sorted_out, weights_of_classes
from rheostat.training.precision import settled
from rheostat.training.result import Fitted
from rheostat.training.run import Report
from rheostat.training.settings import Settings
from rheostat.training.starting import start_from
from rheostat.training.validation import check_settings

VALIDATION = 2000
"""Maximum number of images kept from a validation set that is not in memory."""


def fit(
    model: Tunable,
    train_set: Any,
    val_set: Any,
    *,
    out: str | Path,
    fresh: bool = False,
    report: Report | None = None,
    **options: Any,
) -> Fitted:
    """Train a model in place, or continue the run in `out`; the returned run holds it with its best weights.

    `train_set`, `val_set`: a torch Dataset or DataLoader, a pair of tensors (images (N, C, H, W), labels (N,)), one of
    `rheostat.data`, a Hugging Face data set, or an iterable of (image, label). Pixels are uint8 or floats in [0, 1],
    and are stored as 8 bits. Tensors are moved to the device whole; other data sets are read during the run, by
    `workers` processes. Weights are selected and the dial is calibrated on `val_set` only.

    `options` are the keys of a recipe's section `train` (epochs, batch, lr, weight_decay, schedule, ema, trades, seed,
    ...), `eps` and `norm`, `augment` and `padding`, a section as a dict (`attack={"steps": 10}`, `select={"images":
    500}`), `device`, `calibrate_dial`, and the objects and functions that `FitOptions` lists (optimiser, scheduler,
    loss, attack, callbacks, accumulate, init, freeze, sampler, class_weights, ...). `eps` and `epochs` are needed.

    The same call continues a run that was killed at any moment, on the CPU bit for bit. A finished run is not trained
    again (`fresh=True` starts over), and `model` gets its weights. Under torchrun the ranks share every batch. Raises
    ValueError before any work for anything that cannot be trained; Interrupted after Ctrl-C, with the checkpoint saved.
    """
    if not isinstance(model, Tunable):
        raise ValueError(
            f"fit trains a Tunable, given a {type(model).__name__}; make one from your network: "
            'rheostat.adopt(network, "dual", image=(3, 32, 32))'
        )
    folder = Path(out)
    batch = batch_of(train_set)
    if batch is not None:
        if options.get("batch", batch) != batch:
            raise ValueError(f"batch is {options['batch']}, but the loader's is {batch}; leave one out")
        options = {**options, "batch": batch}
    settings, chosen = sorted_out(_base(folder.name, model), options)
    form = Form(
        model.net.image,
        _classes(model, train_set, chosen),
        chosen.columns,
        _preprocessing(model, train_set, val_set, chosen),
        renamed=chosen.classes is not None,
    )
    images, loader = opened(train_set, form, "train_set", in_memory=chosen.in_memory)
    check_settings(settings, model.method, repr(model.method), attack=chosen.attack)
    validation = _validation(val_set, form)
    device = device_named(settings.device.name)
    ranks = join(device)
    if ranks.world > 1 and (why := model.method.undivided()):
        raise ValueError(f"{why}; train in one process")
    settings = settled(settings, folder, device, ranks, fresh=fresh, report=report)
    feed = _feed(images, loader, form, settings, chosen, ranks, device)
    with alone(folder) if ranks.first else nullcontext(), _kept_frozen(frozen(model, chosen.freeze)):
        model.to(device)
        job = _job(model, settings, chosen, feed, validation, folder)
        progress, about = perform(job, fresh=fresh, report=report)
    return Fitted(model, settings, progress, folder, about, form, chosen.callbacks)


def _base(name: str, model: Tunable) -> dict[str, Any]:
    """Settings that differ from a recipe's defaults: the dial is calibrated; adopted networks keep their layout."""
    return {
        "name": name,
        "calibrate_dial": "robustness" in model.dials,
        "device": {"channels_last": not isinstance(model.net, Adopted)},
    }


def _classes(model: Tunable, train_set: Any, options: FitOptions) -> tuple[str, ...]:
    """The names of the model's classes: the given ones, those of the data set, or numbers."""
    count = model.net.classes
    found = tuple(options.classes) if options.classes is not None else class_names(train_set)
    if found is None:
        return tuple(str(i) for i in range(count))
    if len(found) != count:
        whose, hint = (
            ("classes", "") if options.classes is not None else ("train_set", "; classes=[...] names those used")
        )
        raise ValueError(f"{whose} names {len(found)} classes, the model has {count}{hint}")
    return found


def _preprocessing(model: Tunable, train_set: Any, val_set: Any, options: FitOptions) -> Preprocessing | None:
    """The preprocessing: the given one, or the one that the images were read with; ValueError if two differ."""
    found = {
        what: rule
        for what, rule in (
            ("preprocessing", options.preprocessing),
            *((what, rule_of(given)) for what, given in (("train_set", train_set), ("val_set", val_set))),
        )
        if rule is not None
    }
    if len(set(found.values())) > 1:
        rules = ", ".join(f"{what} has {rule}" for what, rule in found.items())
        raise ValueError(f"one preprocessing goes into the model's file, but {rules}")
    rule = next(iter(found.values()), None)
    if rule is not None:
        rule.check(model.net.image, next(iter(found)))
    return rule


def _validation(given: Any, form: Form) -> Dataset:
    """The validation images in memory; ValueError for a test split, because nothing may be selected on test."""
    return measured(given, form, "val_set", most=VALIDATION).to_choose_on()


@contextmanager
def _kept_frozen(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Disable the gradients of these parameters inside the block."""
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield
    finally:
        for parameter, was in zip(parameters, before, strict=True):
            parameter.requires_grad_(was)


def _feed(
    images: Given,
    loader: Loader,
    form: Form,
    settings: Settings,
    options: FitOptions,
    ranks: Ranks,
    device: torch.device,
) -> Feed:
    """The feed of training images, with the number of steps per epoch."""
    sampler = options.sampler if options.sampler is not None else loader.sampler
    workers = options.workers if options.workers is not None else loader.workers or 0
    batch = settings.train.batch
    if isinstance(images, Flow):
        if sampler is not None:
            raise ValueError(f"{images.name} is an iterable with its own order; leave the sampler out")
        if options.steps_per_epoch is None:
            raise ValueError(f"{images.name} is an iterable without a known length: give steps_per_epoch")
        per_epoch = options.steps_per_epoch
    else:
        if options.steps_per_epoch is not None:
            raise ValueError(f"steps_per_epoch is for iterables; {images.name} has {len(images)} images")
        if images.split == "test":
            raise ValueError(f"{images.name}: this is the test split, and nothing is trained on test")
        if isinstance(sampler, DistributedSampler):
            raise ValueError("ranks already share every batch; leave the DistributedSampler out")
        count = len(sampler) if sampler is not None and hasattr(sampler, "__len__") else len(images)
        per_epoch = count // batch
        if per_epoch == 0:
            raise ValueError(f"batch is {batch}, more than the {count} training images")
    if isinstance(images, Dataset):
        images = images.to(device)
    return Feed(images, form, settings, ranks, per_epoch, device, sampler, options.accumulate, workers)


def _job(model: Tunable, settings: Settings, options: FitOptions, feed: Feed, validation: Dataset, folder: Path) -> Job:
    given = feed.given
    described = options.described()
    images = given.fingerprint if isinstance(given, Dataset) else [given.name, _length(given)]
    own = fingerprint(
        settings.model_copy(update={"name": ""}),
        feed.ranks.world,
        repr(model.method),
        _architecture(model),
        options.identified(),
        images,
        feed.per_epoch,
        validation.fingerprint,
    )
    mark = feed.ranks.text_of_first(own)  # a function may close over its rank
    recipe = settings.model_dump(mode="json", exclude={"data"})
    if options.attack is not None and not isinstance(options.attack, Attack):
        recipe["attack"] = {"kind": described["attack"], "norm": settings.attack.norm, "eps": settings.attack.eps}
    return Job(
        model=model,
        settings=settings,
        options=options,
        feed=feed,
        fit=validation.to(feed.device),
        folder=folder,
        mark=mark,
        about=artifact.About(
            classes=feed.form.classes,
            threat={"norm": settings.attack.norm, "eps": settings.attack.eps},
            provenance={"recipe": recipe, "dataset": given.name, "fingerprint": mark, "options": described},
            preprocessing=feed.form.preprocessing,
        ),
        same=lambda found: found.get("fingerprint") == mark,
        class_weights=weights_of_classes(options.class_weights, model.net.classes, given),
        begin=functools.partial(_begin, model, options, feed.ranks),
    )


def _begin(model: Tunable, options: FitOptions, ranks: Ranks) -> None:
    """Give a model its first weights, equal on all ranks."""
    if options.init is not None:
        start_from(model, options.init)
    # What was fitted to previous weights does not hold for these.
    model.dial_map, model.points, model.temperatures = None, {}, {}
    for module in model.modules():
        if isinstance(module, Nonlinearity):
            module.reset()
    if "exit" in model.dials:
        model.net.get_buffer("thresholds").fill_(float("nan"))
    ranks.copy_first([*model.parameters(), *model.buffers()])


def _length(given: Given) -> int:
    return 0 if isinstance(given, Flow) else len(given)


def _architecture(model: Tunable) -> str:
    """A hash of the names and shapes of a model's tensors."""
    text = repr([(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
