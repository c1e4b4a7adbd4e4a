"""Models on the Hugging Face hub: `push_to_hub`, and files named `hf:org/name` that `load` fetches.

A repository holds the artifact as `model.safetensors` and a card as `README.md`. Nothing of it is ever executed.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from rheostat.models import artifact
from rheostat.models.artifact import About
from rheostat.models.factories import Factory
from rheostat.models.tunable import Tunable

PREFIX = "hf:"
FILE = "model.safetensors"
NAME = re.compile(r"[\w.-]+/[\w.-]+")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError("models on a hub need huggingface_hub: pip install 'rheostat[hub]'") from None
    return huggingface_hub


def check_name(name: str) -> str:
    """The name of a model on the hub; ValueError unless it is organisation/name."""
    if not NAME.fullmatch(name):
        raise ValueError(f"a model on the hub is named organisation/name, given {name!r}")
    return name


def fetch(which: str) -> Path:
    """The local copy of `hf:org/name`, or `hf:org/name@revision`; downloaded once, and kept in the hub's own cache.

    ValueError in one line where there is no such model, or no connection and no copy.
    """
    hub = _hub()
    name, _, revision = which.removeprefix(PREFIX).partition("@")
    try:
        return Path(hub.hf_hub_download(check_name(name), FILE, revision=revision or None))
    except hub.errors.RepositoryNotFoundError:
        raise ValueError(f"the hub has no model {name!r}, or it is private and no token is set (HF_TOKEN)") from None
    except hub.errors.RevisionNotFoundError:
        raise ValueError(f"{name} has no revision {revision!r}") from None
    except hub.errors.LocalEntryNotFoundError:
        raise ValueError(f"{name} is not in the cache, and the hub cannot be reached") from None
    except hub.errors.EntryNotFoundError:
        raise ValueError(f"{name} holds no {FILE}, so no model of Rheostat's") from None
    except (hub.errors.HfHubHTTPError, OSError) as error:
        raise ValueError(f"{name} could not be fetched: {str(error).splitlines()[0]}") from None


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
    """Upload a model, or a model's file, and its card as organisation/name; returns the address of the commit.

    The repository is made where it is new. `card` is the text of its README (`rheostat card`); `rheostat push` writes
    it from the rows beside a file. `net` is what makes an adopted network, as in `load`. Without `token` the hub's own
    login counts. ValueError in one line where the hub refuses.
    """
    hub = _hub()
    check_name(name)
    header = "---\nlibrary_name: rheostat\ntags:\n- adversarial-robustness\n- image-classification\n---\n\n"
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(model, Tunable):
            file = artifact.save(Path(folder) / FILE, model, about)
        else:
            if about is not None:
                raise ValueError("a file says itself what it is about; give `about` with a model alone")
            file = artifact.locate(model)
            artifact.load_with(file, net=net)  # what does not load is not published
        api = hub.HfApi(token=token)
        operations = [hub.CommitOperationAdd(FILE, str(file))]
        text = header + (card or f"# {name}\n\nA model of Rheostat's: `rheostat.load({PREFIX + name!r})`.\n")
        operations.append(hub.CommitOperationAdd("README.md", text.encode()))
        try:
            api.create_repo(name, private=private, exist_ok=True)
            done = api.create_commit(name, operations, commit_message="Upload by rheostat")
        except (hub.errors.HfHubHTTPError, OSError) as error:
            raise ValueError(f"{name} could not be uploaded: {str(error).splitlines()[0]}") from None
    return str(done.commit_url)
