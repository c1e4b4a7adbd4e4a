"""Validate an untrusted model file: its description, and that its network is no larger than its tensors.

The author of a file controls every number in it. The description is therefore checked by a pydantic model. The network
is first built without memory (on the meta device), with a bounded number of operations, and its tensors are compared
with those of the file; only then is it really built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rheostat.data.preprocessing import MOST_SIDE
from rheostat.models.tunable import Tunable
from rheostat.points.point import Point
from rheostat.runtime.terminal import visible

LEAST_TEMPERATURE, MOST_TEMPERATURE = 1e-3, 1e3
"""Fitted temperatures lie between 0.02 and 55; beyond this range probabilities are one-hot or uniform."""
MOST_PIXELS = 2**22
"""Maximum pixels of an image for a network in a file."""
OPERATIONS = 1_000, 30
"""Maximum operations to build a network: a constant, plus a number per tensor; our networks need at most four each."""
SPARE = 2**28
"""Bytes that a tensor may have while a network is built, in addition to those of the file's tensors."""
Name = Annotated[str, Field(min_length=1, max_length=100)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class _Knots(_Part):
    """A dial map; that its knots rise is checked by `DialMap`."""

    position: list[Share] = Field(min_length=2, max_length=10_000)
    level: list[Share]
    blend: list[Share]


class _Dial(_Part):
    name: Name


class _Threat(_Part):
    norm: Literal["linf", "l2"] = "linf"
    eps: float | None = Field(default=None, ge=0)


class _Measured(_Part):
    """The numbers of a named point that other code reads."""

    temperature: float = Field(default=1.0, ge=LEAST_TEMPERATURE, le=MOST_TEMPERATURE)
    clean_accuracy: Share = 0.0
    clean_bound: Share = 0.0
    robust_accuracy: Share = 0.0
    robust_bound: Share = 0.0
    ece_before: Share = 0.0
    ece_after: Share = 0.0
    measured_under: list[str] = []
    split: str = ""
    precision: Literal["fp32", "bf16", "int8", "int8-openvino"] = "fp32"
    exit_shares: list[Share] | None = None


class _Images(_Part):
    """The images of a recipe: their splits are drawn again from these numbers."""

    name: str = ""
    verify: bool = True
    calibrate: int = 2
    train_images: int | None = None
    split_seed: int = 0


class _Recipe(_Part):
    name: str = ""
    paper: str = ""
    data: _Images = _Images()
    train: dict[str, Any] = {}
    attack: dict[str, Any] = {}
    method: dict[str, Any] = {}
    device: dict[str, Any] | None = None


class _Provenance(_Part):
    recipe: _Recipe = _Recipe()
    dataset: str = ""
    flags: list[str] = []


class _Preprocessing(BaseModel):
    """How images are resized to fit; unknown keys are refused, because they could mean a step that we would skip."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: list[Annotated[int, Field(ge=1, le=MOST_SIDE)]] = Field(min_length=2, max_length=2)
    resize: Literal["crop", "stretch", "pad"]
    mode: Literal["RGB", "L"]


class _Adopted(_Part):
    """An adopted network: `factory` names what made the module (only timm names are followed); `architecture` has one
    line per operation."""

    factory: str = ""
    architecture: list[str] = []


class Description(_Part):
    """The metadata of a model's file, as far as other code reads it."""

    composition: str = Field(max_length=10_000)
    net: dict[str, Any]
    dials: list[_Dial]
    dial_map: _Knots | None
    points: dict[Name, dict[str, float]]
    classes: list[Annotated[str, Field(max_length=1_000)]]
    threat: _Threat
    provenance: _Provenance
    measured: dict[Name, _Measured]
    preprocessing: _Preprocessing | None = None
    adopted: _Adopted = _Adopted()


def check_description(found: Mapping[str, Any], where: str) -> None:
    """One-line ValueError unless a file's metadata describes a model; strings may not hold control characters.

    Line breaks and tabs are allowed in strings.
    """
    for text in _strings(found):
        if any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 for c in text):
            raise ValueError(f"{where}: holds control characters, in {text[:60]!r}")
    try:
        Description.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(visible(str(part))[:60] for part in problem["loc"])
        given = repr(problem["input"])
        shown = f", given {given}" if problem["type"] != "missing" and len(given) < 60 else ""
        raise ValueError(f"{where}: {field}: {problem['msg']}{shown}") from None


def _strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _strings(inner)


class _Bounded(TorchDispatchMode):
    """Limits the number of operations in this thread and the bytes of their tensors.

    It checks the requested sizes before an operation runs.
    """

    def __init__(self, operations: int, largest: int) -> None:
        begin: Callable[[], None] = super().__init__
        begin()
        self.left, self.largest = operations, largest

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("its network has far more layers than it has tensors")
        if args and isinstance(args[0], list | tuple) and all(type(n) is int for n in args[0]):
            self._check(math.prod(args[0]) * 4)
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._check(leaf.numel() * leaf.element_size())
        return made

    def _check(self, size: int) -> None:
        if size > self.largest:
            raise ValueError(f"its network requests {size:.3g} bytes at once, far more than its tensors have")


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes tensors have."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def bounded(tensors: Mapping[str, Tensor]) -> _Bounded:
    """Limits for building the network of a file with these tensors; inside, ValueError for a far larger one."""
    return _Bounded(OPERATIONS[0] + OPERATIONS[1] * len(tensors), SPARE + 4 * bytes_of(tensors))


def built(
    net: Callable[[], nn.Module], model: Callable[[Any], Tunable], tensors: Mapping[str, Tensor], where: str
) -> Tunable:
    """Build a model that fits the tensors of its file. `net` builds the network, `model` installs the methods in it.

    Nothing is allocated before the names, shapes and types of all tensors have been compared. Methods that read
    weights during installation cannot be tried this way; for them only the bytes of the network are compared.
    One-line ValueError for a description that cannot be built.
    """
    held = bytes_of(tensors)
    with _one_line(where):
        with torch.device("meta"), bounded(tensors):
            plain = net()
            _check_image(plain)
            asked = bytes_of(dict(plain.named_parameters()))
            try:
                tried: Tunable | None = model(plain)
            except (NotImplementedError, RuntimeError):
                tried = None
        if tried is not None:
            _compare(tried, tensors)
        elif asked > held:
            raise ValueError(f"weights do not fit the composition (its network has {asked} bytes, the file {held})")
        with bounded(tensors):
            made = model(net())
        if tried is None:
            _compare(made, tensors)
    return made


def _check_image(net: nn.Module) -> None:
    image = getattr(net, "image", ())
    if math.prod(image[1:]) > MOST_PIXELS:
        raise ValueError(f"its network takes images of {image}; at most {MOST_PIXELS} pixels")


def _compare(model: Tunable, tensors: Mapping[str, Tensor]) -> None:
    """ValueError unless the tensors are the model's: no stored tensor is missing and none is unknown."""
    state = model.state_dict()
    problem = next((f"no tensor {name}" for name in model.stored() if name not in tensors), None)
    for name, tensor in tensors.items():
        if problem is not None:
            break
        if name not in state:
            problem = f"the tensor {name!r} is not one of the network's"
        elif tensor.shape != state[name].shape:
            problem = f"{name} is {tuple(tensor.shape)}, expected {tuple(state[name].shape)}"
        elif tensor.dtype != state[name].dtype:
            problem = f"{name} is {tensor.dtype}, expected {state[name].dtype}"
        elif name.rpartition(".")[2] == "running_var" and bool((tensor < 0).any()):
            problem = f"{name} is negative"
    if problem is not None:
        raise ValueError(f"weights do not fit the composition ({problem})")


def fitted(model: Callable[[], Tunable], tensors: Mapping[str, Tensor], where: str) -> Tunable:
    """A model on a user's network whose tensors match the file; one-line ValueError otherwise."""
    with _one_line(where):
        made = model()
        _compare(made, tensors)
    return made


@contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Turn every error inside into a one-line ValueError that names the file."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        unknown = text.startswith(("no network ", "no method "))
        hint = "; if another package adds it, install that package" if unknown else ""
        raise ValueError(f"{where}: {text}{hint}") from None
    except Exception as error:  # an invalid description may raise anything
        first = next(iter(str(error).splitlines()), "")[:200]
        raise ValueError(f"{where}: its network cannot be built ({type(error).__name__}: {first})") from None


def check_exit_shares(measured: Mapping[str, Any], points: Mapping[str, Point], where: str) -> None:
    """ValueError unless the shares of images by exit, where numbers of a point state them, fit it and add up to 1."""
    for name, point in points.items():
        shares = measured.get(name, {}).get("exit_shares")
        if shares is None:
            continue
        if len(shares) != int(point.get("depth", 0)) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(
                f"{where}: measured.{name}.exit_shares: one share for each exit, which add up to 1, given {shares}"
            )


def check_classes(classes: Sequence[str], model: Tunable, where: str) -> None:
    """ValueError unless there is one name per class, or no names."""
    if classes and len(classes) != model.net.classes:
        raise ValueError(f"{where}: {len(classes)} names for {model.net.classes} classes")
