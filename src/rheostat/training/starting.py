"""The start of a run: a user's network, weights of another model, and a note of where the images are."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from rheostat import data
from rheostat.evaluation.lookup import WHERE
from rheostat.models import adopt, artifact
from rheostat.models.factories import from_name
from rheostat.models.tunable import Tunable
from rheostat.nets.adopted import NAME, Adopted
from rheostat.runtime.files import write_text
from rheostat.runtime.seeding import seed_of, seeded
from rheostat.training.recipe import Recipe

NetGiven = Callable[[], nn.Module]
SETS = (".clean.", ".adversarial.")
"""The norm sets of a bank; both start from the single set of a model without a bank."""
PIECE = re.compile(r"^net\.(?:blocks\.\d+|classifier)\.")
"""What precedes the name that a tensor of an adopted network has in the module."""


def network_named(text: str) -> NetGiven:
    """The factory named by `package.module:function` or `timm:NAME(...)`; it is called when the run starts."""
    if ":" not in text:
        raise ValueError(f"--net must be package.module:function or timm:NAME, given {text!r}")
    return NamedNet(text)


@dataclass(frozen=True)
class NamedNet:
    """A factory given by its name on Python's search path."""

    text: str

    def __call__(self) -> nn.Module:
        return from_name(self.text)


def name_of(net: NetGiven) -> str:
    """The name of a factory as package.module:function."""
    if isinstance(net, NamedNet):
        return net.text
    return f"{getattr(net, '__module__', '')}:{getattr(net, '__qualname__', type(net).__qualname__)}"


def own_network(recipe: Recipe, train_set: data.Dataset, net: NetGiven) -> Tunable:
    """The model of a recipe on a user's network; its random initial weights depend only on the recipe's seed.

    ValueError if its number of classes or its image shape differs from the data set's, or if the function returned a
    Tunable of another composition than the recipe's.
    """
    with seeded(seed_of(recipe.train.seed, "weights")):
        made = net()
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name_of(net)} returned a {type(made).__name__}, expected a torch.nn.Module")
        mean, std = train_set.statistics()
        model = (
            made
            if isinstance(made, Tunable)
            else adopt(made, recipe.stack(), image=train_set.image, mean=mean, std=std)
        )
        if isinstance(net, NamedNet) and isinstance(model.net, Adopted):
            model.net.factory = net.text  # the model's file names the factory of its network
    if model.net.classes != len(train_set.classes) or tuple(model.net.image) != train_set.image:
        raise ValueError(
            f"{name_of(net)} takes images of {_shape(model.net.image)} and has {model.net.classes} classes; "
            f"{train_set.name} has {_shape(train_set.image)} and {len(train_set.classes)}"
        )
    own, named = repr(model.method), repr(recipe.stack().bound(model.net))
    if own != named:
        raise ValueError(
            f"{name_of(net)} returned a Tunable of {own}, but the recipe's paper and method are {named}; return the "
            "plain module, which is adopted with the latter, or give a recipe of the same composition"
        )
    return model


def _shape(image: tuple[int, ...]) -> str:
    return " × ".join(map(str, image))


def start_from(model: Tunable, given: str | Path | Mapping[str, Tensor]) -> None:
    """Load the weights of a file, run, packaged model or state dict into a model; other tensors do not change.

    Names are those of `model.state_dict()`, of its network (without `net.`) or, for an adopted network, of the user's
    module. A single norm set is loaded into both sets of a bank. One warning names tensors of another shape (such as a
    head for other classes), which keep their initial values, and counts the weights that were not given and the
    given tensors that the model does not have. ValueError if nothing fits.
    """
    if isinstance(given, Mapping):
        source, what = dict(given), "the state dict"
    else:
        source, what = _tensors_of(given), str(given)
    state, weights, places = model.state_dict(), dict(model.named_parameters()), _places(model, source)
    taken = {
        name: source[place].to(state[name])
        for name, place in places.items()
        if source[place].shape == state[name].shape
    }
    if not weights.keys() & taken.keys():
        raise ValueError(f"init: no weight of {what} fits this model, whose weights are {_listed(sorted(weights))}")
    model.load_state_dict(state | taken)
    other = [
        f"{name} {tuple(source[place].shape)} instead of {tuple(state[name].shape)}"
        for name, place in places.items()
        if name not in taken
    ]
    missing = [name for name in weights if name not in places]
    # The norms of PyTorch count batches, and ours do not.
    used = {*places.values()}
    idle = [name for name in source if name not in used and not name.endswith("num_batches_tracked")]
    notes = (
        (other, f"not loaded, because {what} has other shapes"),
        (missing, f"{len(missing)} of the model's {len(weights)} weights are not in {what}"),
        (idle, f"{len(idle)} tensors of {what} are not in the model"),
    )
    if warning := "; ".join(f"{note}: {_listed(names)}" for names, note in notes if names):
        warnings.warn(f"init: {warning}", stacklevel=5)


def _tensors_of(which: str | Path) -> dict[str, Tensor]:
    """The tensors of a model's file; those of an adopted network without its blocks, which differ with its exits."""
    _, tensors, found = artifact.contents(which)
    adopted = found["net"].get("name") == NAME
    return {PIECE.sub("", name) if adopted else name: tensor for name, tensor in tensors.items()}


def _places(model: Tunable, source: Mapping[str, Tensor]) -> dict[str, str]:
    """The source's names of the model's tensors that it has, in the spelling that finds the most of them."""

    def inside(name: str) -> str:
        return PIECE.sub("", name)

    spellings: list[Callable[[str], str]] = [str, lambda name: name.removeprefix("net.")]
    if isinstance(model.net, Adopted):
        own = model.net.own_names
        spellings += [inside, lambda name: own.get(inside(name), inside(name))]
    found = [
        {name: place for name in model.state_dict() if (place := _of(source, name, spelt)) is not None}
        for spelt in spellings
    ]
    return max(found, key=len)


def _of(source: Mapping[str, Tensor], name: str, spelt: Callable[[str], str]) -> str | None:
    """The source's name of a tensor: the same, or that of the single norm set of a model without a bank."""
    names = (spelt(name.replace(one, ".") if one else name) for one in ("", *SETS))
    return next((one for one in names if one in source), None)


def _listed(found: Sequence[str]) -> str:
    """The first three of many."""
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")


def remember(run: Path, name: str, folder: str | Path | None) -> None:
    """Record in a run's folder where its images are, so that an evaluation finds them."""
    prefix, colon, inside = name.partition(":")
    if colon and Path(inside).is_dir():  # a tree of images, or a Hugging Face folder
        name = f"{prefix}:{Path(inside).resolve()}"
    text = json.dumps({"name": name, "folder": str(data.data_dir(folder).resolve())}, indent=1)
    path = run / WHERE
    if not path.is_file() or path.read_text() != text:
        write_text(path, text)
