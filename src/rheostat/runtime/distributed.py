"""Ranks of one data-parallel run under torchrun, on top of torch.distributed.

DistributedDataParallel is not used, because a step has several forward passes, unused norm sets, and attacks. A
single flat all-reduce of the gradients after them is exact and simple.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """This process's rank and the number of ranks; `Ranks(0, 1)` is a single process."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and shows progress."""
        return self.rank == 0

    def share(self, batch: int) -> tuple[int, int]:
        """This rank's rows [first, last) of a global batch."""
        return batch * self.rank // self.world, batch * (self.rank + 1) // self.world

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum every parameter's gradient over the ranks, as one flat vector."""
        if self.world == 1:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in grads])
        dist.all_reduce(flat)
        for grad, piece in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
            grad.copy_(piece.view_as(grad))

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    @torch.no_grad()
    def copy_first(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the first rank's values to all ranks, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def text_of_first(self, text: str) -> str:
        """The first rank's text, on all ranks."""
        found = [text]
        if self.world > 1:
            dist.broadcast_object_list(found, 0, device=torch.device("cpu"))
        return found[0]

    def any(self, asked: bool) -> bool:
        """Whether `asked` is true on any rank; all ranks get the same answer."""
        return self.agreed(asked)[0]

    def agreed(self, *asked: bool) -> list[bool]:
        """Of several questions, whether each is true on any rank. It uses the CPU, so no device syncs."""
        if self.world == 1:
            return list(asked)
        return self.sum(torch.tensor(asked, dtype=torch.int64)).bool().tolist()

    def wait(self) -> None:
        """Wait until every rank arrives here."""
        if self.world > 1:
            dist.barrier()


def world_size() -> int:
    """The number of ranks that torchrun set up; 1 if there are none."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join(device: torch.device) -> Ranks:
    """Join the ranks that torchrun set up, or return a single rank if there are none."""
    if world_size() == 1:
        return Ranks()
    if not dist.is_initialized():
        # CPU tensors (counts, requests to stop) use gloo, even if gradients use NCCL.
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    return Ranks(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Close the process group if one exists."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device_named(name: str) -> torch.device:
    """A device by its name; "auto" takes CUDA if available (by local rank), else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"no device {name!r}; allowed: auto, cpu, cuda, cuda:N")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device 'cuda' was requested, but this machine has none; use cpu or auto")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        count = torch.cuda.device_count()
        if device.index >= count:
            raise ValueError(
                f"no device '{device}': this machine has {count} GPU(s), from cuda:0 on; use one of them or cpu, or "
                "start no more processes than GPUs"
            )
        torch.cuda.set_device(device)
    return device
