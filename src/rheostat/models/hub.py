"""Models on the Hugging Face hub: `push_to_hub`, and files named `hf:org/name` that `load` fetches.

A repository holds the artifact as `model.safetensors`, the int8 files of its named points beside it, and a card as
`README.md`. No code from it is ever executed.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.factories import Factory
from rheostat.models.quantised_files import beside, quantised_points
from rheostat.models.tunable import Tunable
from rheostat.runtime.files import read_tensors

PREFIX = "hf:"
FILE = "model.safetensors"
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("models on a hub need huggingface_hub: pip install 'rheostat[hub]'") from None
    return huggingface_hub


def _failures(hub: Any) -> tuple[type[Exception], ...]:
    """What the hub's package raises where a transfer fails.

    A connection that fails is no OSError, and a large file that could not be uploaded is a RuntimeError.
    """
    return hub.errors.HTTPError, OSError, RuntimeError


def _reason(error: Exception) -> str:
    """The first line of an error; its type where it has no text, as a timeout may."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def check_name(name: str) -> str:
    """Return the name of a model on the hub; ValueError unless it has the form organisation/name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a model on the hub must be named organisation/name, given {name!r}")
    return name


def fetch(which: str) -> Path:
    """The local copy of `hf:org/name` or `hf:org/name@revision`, downloaded once into the hub's cache.

    The int8 files of its named points come with it, where the repository has them. One-line ValueError if there is no
    such model, or neither a connection nor a copy.
    """
    hub = _hub()
    name, _, revision = which.removeprefix(PREFIX).partition("@")
    try:
        file = Path(hub.hf_hub_download(check_name(name), FILE, revision=revision or None))
        for point in quantised_points(read_tensors(file)[1]):
            # fp32 needs no such file, and int8 says what it lacks; without a connection this is an error.
            with contextlib.suppress(hub.errors.RemoteEntryNotFoundError):
                # The folder of a file in the cache is named after its commit.
                hub.hf_hub_download(name, beside(Path(FILE), point).name, revision=file.parent.name)
        return file
    except hub.errors.RepositoryNotFoundError:
        raise ValueError(f"the hub has no model {name!r}, or it is private and no token is set (HF_TOKEN)") from None
    except hub.errors.RevisionNotFoundError:
        raise ValueError(f"{name} has no revision {revision!r}") from None
    except hub.errors.LocalEntryNotFoundError:
        raise ValueError(f"{name} is not in the cache, and the hub cannot be reached") from None
    except hub.errors.EntryNotFoundError:
        raise ValueError(f"{name} holds no {FILE}, so it is not a Rheostat model") from None
    except _failures(hub) as error:
        raise ValueError(f"{name} could not be fetched: {_reason(error)}") from None


def push_to_hub(
    model: Tunable | str | Path,
    name: str,
    *,
    about: About | None = None,
    card: str = "",
    net: nn.Module | Factory | str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Upload a model, or a model file, and its card as organisation/name; return the URL of the commit.

    The int8 files of named points are uploaded with a model file; ValueError, before anything is sent, if one is
    missing.
    A new repository is created if necessary. `card` is the text of its README (`rheostat card`); `rheostat push`
    generates it from the rows beside the file. `net` is the factory of an adopted network, as in `load`. Without
    `token` the hub's stored login is used. One-line ValueError if the hub refuses.
    """
    hub = _hub()
    check_name(name)
    header = "---\nlibrary_name: rheostat\ntags:\n- adversarial-robustness\n- image-classification\n---\n\n"
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, Tunable):
            file = artifact.save(Path(folder) / FILE, model, about)
        else:
            if about is not None:
                raise ValueError("a file holds its own `about`; give `about` only with a model")
            file = artifact.locate(model)
            artifact.load_with(file, net=net)  # never publish a file that does not load
        kept = {point: beside(file, point) for point in quantised_points(read_tensors(file)[1])}
        if missing := [point for point, own in kept.items() if not own.is_file()]:
            raise ValueError(
                f"{', '.join(missing)}: served as int8, from files that are not beside the model's file; push the file "
                "or the run's folder in which these points were chosen"
            )
        api = hub.HfApi(token=token)
        operations = [hub.CommitOperationAdd(FILE, str(file))]
        operations += [hub.CommitOperationAdd(beside(Path(FILE), p).name, str(own)) for p, own in kept.items()]
        text = header + (card or f"# {name}\n\nA Rheostat model: `rheostat.load({PREFIX + name!r})`.\n")
        operations.append(hub.CommitOperationAdd("README.md", text.encode()))
        try:
            api.create_repo(name, private=private, exist_ok=True)
            done = api.create_commit(name, operations, commit_message="Upload by rheostat")
        except _failures(hub) as error:
            raise ValueError(f"{name} could not be uploaded: {_reason(error)}") from None
    return str(done.commit_url)
