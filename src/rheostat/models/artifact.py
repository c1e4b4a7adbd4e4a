"""One file is the model: weights, composition, dials, named points, provenance. Nothing is unpickled."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheostat import nets
from rheostat.data.preprocessing import Preprocessing
from rheostat.methods import parse_method
from rheostat.models import zoo
from rheostat.models.factories import Factory
from rheostat.models.fetching import fetch
from rheostat.models.hashing import DECISIVE, as_loaded, decisive, digest_of_parts, tensors_hash
from rheostat.models.quantised_files import POINT_NAME
from rheostat.models.rebuilding import rebuilt
from rheostat.models.tunable import Tunable
from rheostat.models.validation import built, check_classes, check_description, check_exit_shares, fitted
from rheostat.nets.adopted import NAME, Adopted
from rheostat.points.dial_map import DialMap
from rheostat.points.point import Point
from rheostat.runtime.choices import nearest
from rheostat.runtime.files import locked, read_tensors, write_tensors

FORMAT = 1
KNOWN = {
    *("artifact", "tensors", "composition", "net", "dials", "dial_map", "points"),
    *("classes", "threat", "provenance", "measured", "adopted", "preprocessing"),
}


@dataclass(frozen=True)
class About:
    """What an artifact says beside its weights.

    `threat` holds norm and eps of training; `provenance` the recipe, data set, seconds, flags and
    versions; `measured` the numbers of named points. `preprocessing` is how images of any size were made to fit, where
    they were: a service, a playground and an evaluation do the same.
    """

    classes: tuple[str, ...] = ()
    threat: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None

    def without_provenance(self) -> About:
        """The same without provenance, as a loaded model keeps it: its weights may change before it is saved."""
        return replace(self, provenance={})


def about_of(model: Tunable, tensors: str) -> About:
    """What a model, whose tensors have this hash, says of itself, without measured numbers that no longer hold.

    They hold for points that the model still has. Numbers that it was loaded with hold only if neither the point nor
    the model has changed since.
    """
    about, origin = model.about or About(), model.origin
    old = {} if origin is None else {name: origin.measured[name] for name in origin.outdated(model, tensors)}
    kept = {k: v for k, v in about.measured.items() if k in model.points and old.get(k) != v}
    return replace(about, measured=kept)


def versions() -> dict[str, str]:
    """Versions of what decides a number."""
    out = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("rheostat", "numpy"):
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # run from a source tree
            out[package] = "uninstalled"
    return out


def save(path: str | Path, model: Tunable, about: About | None = None) -> Path:
    """Write a model as one safetensors file; returns its path.

    Without `about` the model's own is written, with the measured numbers that still hold (`about_of`).
    """
    if not getattr(model.net, "spec", None):
        raise ValueError(
            "this network was not built by name and cannot be rebuilt from a file; build it by "
            "rheostat.nets, or adopt the module that it comes from"
        )
    adopted = {}
    if isinstance(model.net, Adopted):
        adopted = {"adopted": {"factory": model.net.factory, "architecture": model.net.architecture}}
    stored = model.stored()
    check_finite(stored, str(path))
    tensors = tensors_hash(stored)
    about = about or about_of(model, tensors)
    description = {
        "artifact": FORMAT,
        "tensors": tensors,
        **decisive(model),
        **adopted,
        "points": {k: v.numbers() for k, v in model.points.items()},
        **asdict(about),
    }
    if about.preprocessing is None:
        del description["preprocessing"]  # so that earlier versions read the file
    else:
        about.preprocessing.check(model.net.image, str(path))
    # What loading would refuse is not written.
    check_description(json.loads(json.dumps(description)), str(path))
    parse_method(description["composition"])
    check_exit_shares(description["measured"], model.points, str(path))
    check_classes(about.classes, model, str(path))
    write_tensors(Path(path), stored, description)
    return Path(path)


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """ValueError that names the first tensor with an infinite or NaN value; thresholds may be unfitted (NaN)."""
    for name, tensor in tensors.items():
        unfitted = name.rpartition(".")[2] == "thresholds"
        if tensor.is_floating_point() and bool((tensor.isinf() if unfitted else ~tensor.isfinite()).any()):
            raise ValueError(f"{where}: {name} holds values that are infinite or NaN; such a model predicts nothing")


def packaged() -> dict[str, Path]:
    """The artifacts that come with the package, by name."""
    return {p.stem: p for p in sorted(zoo.artifacts().glob("*.safetensors"))}


def locate(which: str | Path) -> Path:
    """An artifact's path: a file, a run's folder, the name of one that ships, or `hf:org/name` on the hub.

    A model that ships and does not come with the package is fetched the first time, and kept in a cache.
    """
    if str(which).startswith("hf:"):
        from rheostat.models import hub  # it needs this module

        return hub.fetch(str(which))
    path = Path(which)
    if path.is_dir():
        found = path / "model.safetensors"
        if not found.is_file():
            raise ValueError(f"{path} holds no model.safetensors; is its training finished?")
        return found
    if path.is_file():
        return path
    if str(which) in packaged():
        return packaged()[str(which)]
    if str(which) in zoo.index():
        return fetch(zoo.index()[str(which)])
    known = {*packaged(), *zoo.index()}
    raise ValueError(
        f"no file, run or packaged model {str(which)!r}; {nearest(str(which), known)} (rheostat models lists them)"
    )


def contents(which: str | Path) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """The path, tensors and description of a model's file, checked as far as that needs no network."""
    path = locate(which)
    tensors, found = read_tensors(path)
    if "artifact" not in found:
        raise ValueError(f"{path}: not a model (a training checkpoint, perhaps)")
    if found["artifact"] != FORMAT:
        raise ValueError(f"{path}: artifact format {found['artifact']}, this version reads format {FORMAT}")
    unknown = sorted(set(found) - KNOWN)
    if unknown:
        raise ValueError(f"{path}: holds {unknown[0]!r}, which this version does not know")
    check_description(found, str(path))
    check_finite(tensors, str(path))
    if found.get("tensors") not in (None, tensors_hash(tensors)):
        raise ValueError(f"{path}: its weights are not those that were saved (their hash differs); the file is damaged")
    return path, tensors, found


def load_with(which: str | Path, *, net: nn.Module | Factory | str | None = None) -> tuple[Tunable, About]:
    """The model and what its file says beside the weights; `net` as in `load`."""
    path, tensors, found = contents(which)
    own = found["net"].get("name") == NAME
    if net is not None and not own:
        raise ValueError(f"{path} holds a network that its file rebuilds; leave net (--net) out")

    def conditioned(plain: nets.Net) -> Tunable:
        return Tunable(plain, parse_method(found["composition"]))

    if own:
        base = rebuilt(found["net"], found.get("adopted", {}), net, tensors=tensors, where=str(path))
        model = fitted(lambda: conditioned(base), tensors, str(path))
    else:
        model = built(lambda: nets.build(found["net"]), conditioned, tensors, str(path))
    check_classes(found["classes"], model, str(path))
    declared = [asdict(d) for d in model.method.dials()]
    if [d["name"] for d in declared] != [d["name"] for d in found["dials"]]:
        raise ValueError(f"{path}: its dials are not those of its composition")
    kept = model.stored()
    try:
        model.load_state_dict({k: tensors.get(k, v) for k, v in model.state_dict().items() if k not in kept} | tensors)
    except RuntimeError as error:
        first = str(error).splitlines()[-1].strip()
        raise ValueError(f"{path}: weights do not fit the composition ({first})") from None
    try:
        if found["dial_map"] is not None:
            model.dial_map = DialMap(**{k: tuple(v) for k, v in found["dial_map"].items()})
        model.points = {k: model.complete(Point(**v)) for k, v in found["points"].items()}
    except (TypeError, ValueError) as error:  # a TypeError for a key that no argument has
        raise ValueError(f"{path}: {error}") from None
    check_exit_shares(found["measured"], model.points, str(path))
    model.temperatures = {k: float(v["temperature"]) for k, v in found["measured"].items() if "temperature" in v}
    model.eval()
    about = About(
        tuple(found["classes"]),
        found["threat"],
        found["provenance"],
        found["measured"],
        preprocessing_of(found, model, str(path)),
    )
    model.about = about.without_provenance()
    model.origin = as_loaded(model, found, about.measured)
    if isinstance(model.net, Adopted):
        model.to(model.net.home)
    return model, about


def preprocessing_of(found: Mapping[str, Any], model: Tunable, where: str) -> Preprocessing | None:
    """What a description says of preprocessing, if anything; ValueError unless it gives images that the model takes."""
    if found.get("preprocessing") is None:
        return None
    rule = Preprocessing(**found["preprocessing"])
    rule.check(model.net.image, where)
    return rule


def load(which: str | Path, *, net: nn.Module | Factory | str | None = None) -> Tunable:
    """A model from a file, a run's folder, or a packaged name: `load("oat-digits")`. A call is an evaluation.

    A model with an adopted network needs what made the plain module: `net` is a function without arguments, its name
    ("package.module:function", "timm:resnet18(num_classes=10)") or a module of that architecture. ValueError says what
    differs where it is another one. Of what a file says only timm names with plain arguments are followed.
    """
    return load_with(which, net=net)[0]


def digest(which: str | Path) -> str:
    """The hash that rows name an artifact by: of what decides its outputs, weights to dial map.

    Names given to points and numbers written beside do not change it.
    """
    tensors, found = read_tensors(locate(which))
    return digest_of_parts({k: found.get(k) for k in DECISIVE}, tensors)


def check_nameable(path: str | Path, name: str) -> None:
    """ValueError unless a point may have this name, and points may be named in this model's file."""
    if not POINT_NAME.fullmatch(name):
        raise ValueError(f"a point's name is of a-z, 0-9, - and _, and starts with a letter, given {name!r}")
    if str(path).startswith("hf:"):
        raise ValueError(f"{path} is the hub's copy of a model; copy its file before you name points in it")
    if zoo.ships(locate(path)):
        raise ValueError(f"{path} comes with the package; copy it before you name points in it")


def name_point(
    path: str | Path, name: str, point: Point, measured: dict[str, Any], *, net: nn.Module | Factory | str | None = None
) -> None:
    """Store a point under a name in a model's file, with its measured numbers; the file is whole throughout.

    ValueError, and no change of the file, for a name or numbers with which the file would not load.
    """
    check_nameable(path, name)
    file = locate(path)
    point = load(file, net=net).complete(point)
    with locked(file):
        tensors, found = read_tensors(file)
        found["points"] = {**found["points"], name: point.numbers()}
        found["measured"] = {**found["measured"], name: measured}
        check_description(json.loads(json.dumps(found)), str(file))
        check_exit_shares({name: measured}, {name: point}, str(file))
        write_tensors(file, tensors, found)
