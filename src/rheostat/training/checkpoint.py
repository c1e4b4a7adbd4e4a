"""The state of a training run: everything that the next step depends on, in one atomic file.

Random streams are functions of (seed, step), so no generator state is kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.runtime.files import Taken, read_tensors, write_tensors

FORMAT = 1
MOMENTUM = "momentum_buffer/"


@dataclass
class Progress:
    """The progress of a run, as plain values."""

    step: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    best_epoch: int = -1
    running: dict[str, float] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)
    stopped: str = ""
    """Why a callback ended the run before its last step; else empty."""


@dataclass
class State:
    """A run's live objects: the model, its optimiser, and the stored copies of its weights."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    progress: Progress
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None

    def momentum(self) -> dict[str, Tensor]:
        """The optimiser's buffers by parameter name."""
        return {k.removeprefix(MOMENTUM): v for k, v in self.kept()[0].items() if k.startswith(MOMENTUM)}

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The optimiser's state: tensors and numbers by "key/PARAMETER_NAME".

        ValueError for an optimiser that keeps anything else.
        """
        names = {id(p): n for n, p in self.model.named_parameters()}
        tensors: dict[str, Tensor] = {}
        numbers: dict[str, Any] = {}
        for parameter, state in self.optimiser.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"{key}/{names[id(parameter)]}"] = value
                elif isinstance(value, int | float):
                    numbers[f"{key}/{names[id(parameter)]}"] = value
                elif value is not None:
                    raise ValueError(
                        f"{type(self.optimiser).__name__} keeps {key!r} as a {type(value).__name__}, which a "
                        "checkpoint cannot hold; use an optimiser that keeps tensors and numbers"
                    )
        return tensors, numbers


@dataclass(frozen=True)
class Stored:
    """A checkpoint that was read and belongs to the run: its file, tensors and description."""

    path: Path
    tensors: dict[str, Tensor]
    about: dict[str, Any]

    @property
    def progress(self) -> Progress:
        """The progress of the run when it was written."""
        return Progress(**self.about["progress"])


def save(path: Path, state: State, fingerprint: str, *, ranks: int = 1) -> None:
    """Write the whole state of a run of so many ranks atomically: a reader sees either the old file or the new one."""
    kept, numbers = state.kept()
    groups = {
        "model": state.model.state_dict(),
        "momentum": {k.removeprefix(MOMENTUM): v for k, v in kept.items() if k.startswith(MOMENTUM)},
        "optimiser": {k: v for k, v in kept.items() if not k.startswith(MOMENTUM)},
        "average": state.average or {},
        "best": state.best or {},
    }
    tensors = {f"{group}/{k}": v for group, found in groups.items() for k, v in found.items()}
    about = {
        "checkpoint": FORMAT,
        "fingerprint": fingerprint,
        "ranks": ranks,
        "progress": asdict(state.progress),
        "numbers": numbers,
        "channels_last": [k for k, v in tensors.items() if _channels_last(v)],
    }
    write_tensors(path, tensors, about)


def _channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and not tensor.is_contiguous()


def read(path: Path, fingerprint: str, *, ranks: int = 1) -> Stored:
    """Read a checkpoint; Taken (a ValueError) if it has another format or belongs to another run."""
    tensors, about = read_tensors(path)
    if about.get("checkpoint") != FORMAT:
        raise Taken(f"{path}: checkpoint format {about.get('checkpoint')}, expected {FORMAT}")
    plain = fingerprint.partition("+")[0]  # that of a run from before fingerprints named the images
    if about["fingerprint"] not in (fingerprint, plain):
        before = about.get("ranks", ranks)
        if before != ranks:
            how = "one process" if before == 1 else f"{before} processes (torchrun --nproc-per-node {before})"
            raise Taken(
                f"{path} belongs to a run of {_processes(before)}, and this is one of {_processes(ranks)}; continue it "
                f"with {how}, or choose another --out, or --fresh to start over (in Python: out=, fresh=True)"
            )
        if about["fingerprint"].partition("+")[0] == plain:
            raise Taken(
                f"{path}: the images have changed since this run began, and its splits would be drawn anew from them; "
                "give it the images that it began with, or choose another --out, or --fresh to start over (in Python: "
                "out=, fresh=True)"
            )
        raise Taken(
            f"{path} belongs to another recipe or other options; choose another --out, or --fresh to start over "
            "(in Python: out=, fresh=True)"
        )
    return Stored(path, tensors, about)


def with_images(fingerprint: str, images: str) -> str:
    """The fingerprint of a run together with that of its images, if they have one."""
    return f"{fingerprint}+{images}" if images else fingerprint


def _processes(count: int) -> str:
    return "1 process" if count == 1 else f"{count} processes"


def restore(stored: Stored, state: State) -> None:
    """Restore the state of a checkpoint; Taken (a ValueError) if it holds another network."""
    path, tensors, about = stored.path, dict(stored.tensors), stored.about
    for key in about["channels_last"]:
        tensors[key] = tensors[key].contiguous(memory_format=torch.channels_last)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        group, _, name = key.partition("/")
        groups.setdefault(group, {})[name] = value
    try:
        state.model.load_state_dict(groups["model"])
    except RuntimeError as error:
        raise Taken(
            f"{path} holds another network than this recipe builds now, perhaps because the method's defaults changed "
            "since; choose another --out, or --fresh to start over (in Python: out=, fresh=True)"
        ) from error
    device = next(state.model.parameters()).device
    parameters = dict(state.model.named_parameters())
    kept_tensors = {MOMENTUM + k: v for k, v in groups.get("momentum", {}).items()} | groups.get("optimiser", {})
    defaults = state.optimiser.defaults
    counts_there = bool(defaults.get("capturable") or defaults.get("fused"))
    for name, value in {**kept_tensors, **about.get("numbers", {})}.items():
        key, _, parameter = name.partition("/")
        stays = key == "step" and not counts_there  # torch's optimisers count on the CPU
        moved = value.to(device) if isinstance(value, Tensor) and not stays else value
        state.optimiser.state[parameters[parameter]][key] = moved
    for name in ("average", "best"):
        if name in groups:
            setattr(state, name, {k: v.to(device) for k, v in groups[name].items()})
    state.progress = stored.progress
