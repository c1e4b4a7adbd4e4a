"""The start of a run: a user's network, weights of another model, and a note of where the images are."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from rheostat import data
from rheostat.evaluation.lookup import WHERE
from rheostat.models import adopt, artifact
from rheostat.models.factories import from_name
from rheostat.models.tunable import Tunable
from rheostat.nets.adopted import Adopted
from rheostat.runtime.files import write_text
from rheostat.runtime.seeding import seed_of, seeded
from rheostat.training.recipe import Recipe

NetGiven = Callable[[], nn.Module]
SETS = (".clean.", ".adversarial.")
"""The norm sets of a bank; both start from the single set of a model without a bank."""


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

    Names are those of `model.state_dict()`, or of its network (without `net.`). A single norm set is loaded into both
    sets of a bank. A tensor of another shape (such as a head for other classes) keeps its initial values, and a
    warning names it. ValueError if nothing fits.
    """
    if isinstance(given, Mapping):
        source, what = dict(given), "the state dict"
    else:
        source, what = dict(artifact.load_with(given)[0].state_dict()), str(given)
    if not any(name.startswith("net.") for name in source):
        source = {f"net.{name}": tensor for name, tensor in source.items()}
    state, taken, shapes = model.state_dict(), {}, []
    for name, tensor in state.items():
        found = _of(source, name)
        if found is None:
            continue
        if found.shape == tensor.shape:
            taken[name] = found.to(tensor)
        else:
            shapes.append(f"{name} {tuple(found.shape)} instead of {tuple(tensor.shape)}")
    weights = {name for name, _ in model.named_parameters()}
    if not weights & taken.keys():
        raise ValueError(
            f"init: no weight of {what} fits this model, whose weights are {', '.join(sorted(weights)[:3])} …"
        )
    model.load_state_dict(state | taken)
    if shapes:
        more = f" and {len(shapes) - 3} more" if len(shapes) > 3 else ""
        warnings.warn(f"init: not loaded, because {what} has other shapes: {', '.join(shapes[:3])}{more}", stacklevel=5)


def _of(source: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The tensor for a name in the model: the same name, or the single norm set of a model without a bank."""
    for one in ("", *SETS):
        found = source.get(name.replace(one, ".") if one else name)
        if found is not None:
            return found
    return None


def remember(run: Path, name: str, folder: str | Path | None) -> None:
    """Record in a run's folder where its images are, so that an evaluation finds them."""
    prefix, colon, inside = name.partition(":")
    if colon and Path(inside).is_dir():  # a tree of images, or a Hugging Face folder
        name = f"{prefix}:{Path(inside).resolve()}"
    text = json.dumps({"name": name, "folder": str(data.data_dir(folder).resolve())}, indent=1)
    path = run / WHERE
    if not path.is_file() or path.read_text() != text:
        write_text(path, text)
