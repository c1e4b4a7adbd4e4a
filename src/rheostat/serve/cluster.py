"""The same service on Ray Serve: replicas behind one address, one policy for all of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy

STORE = "rheostat-policy"
POLL = 0.2
"""Seconds after which every replica has a change of policy, at most."""


class _Holder:
    """An actor that holds the policy; Ray restarts it empty, and the first replica fills it again."""

    def __init__(self) -> None:
        self.policy: Policy | None = None

    def read(self) -> Policy | None:
        return self.policy

    def write(self, policy: Policy) -> None:
        self.policy = policy


class ActorStore:
    """The store of `_Holder`, which every replica finds by name."""

    def __init__(self) -> None:
        self.holder: Any = (
            ray.remote(_Holder).options(name=STORE, get_if_exists=True, lifetime="detached", num_cpus=0).remote()
        )

    def read(self) -> Policy | None:
        """The policy of the cluster, or None before there is one."""
        found: Policy | None = ray.get(self.holder.read.remote())
        return found

    def write(self, policy: Policy) -> None:
        """One policy for every replica, within POLL seconds."""
        ray.get(self.holder.write.remote(policy))


def application(
    file: str,
    policy: Policy,
    options: Options | None = None,
    *,
    replicas: int = 2,
    backend: str = "onnx",
    threads: int = 1,
) -> serve.Application:
    """What `serve.run` takes: `replicas` processes of the same application.

    Each loads the model and measures its times for itself, and chooses points for its own queue; the policy
    is shared.
    """
    given = options or Options()

    def build() -> FastAPI:
        shared = replace(given, store=ActorStore(), poll=POLL)
        return make_app(service(file, backend=backend, threads=threads, most=given.most), policy, shared)

    @serve.deployment(num_replicas=replicas, ray_actor_options={"num_cpus": threads}, max_ongoing_requests=4096)
    @serve.ingress(build)
    class Rheostat:
        pass

    return Rheostat.bind()  # type: ignore[attr-defined]
