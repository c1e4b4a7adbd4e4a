"""The same service on Ray Serve: several replicas behind one address share one policy."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy

log = logging.getLogger("rheostat.serve")

STORE = "rheostat-policy-2"
"""The actor's name. Its number changes with the calls of `_Holder`, because the actor outlives an update."""
POLL = 0.2
"""Seconds until every replica has picked up a change of policy, at most."""
Held = tuple[int, Policy]
"""A policy and its number: each change has a higher one than the policy before it."""


class _Holder:
    """An actor that holds the policy. If Ray restarts it, it is empty until the replicas tell it what they know."""

    def __init__(self) -> None:
        self.held: Held | None = None

    def read(self, known: Held | None) -> Held | None:
        """The latest policy; `known` is what the caller has read or written before."""
        # After a restart, a replica that has not yet seen the last change may be the first to call.
        if known is not None and (self.held is None or known[0] > self.held[0]):
            self.held = known
        return self.held

    def write(self, policy: Policy, known: Held | None) -> Held:
        """Hold a policy as the latest; it is returned with its number."""
        latest = self.read(known)
        self.held = (1 if latest is None else latest[0] + 1, policy)
        return self.held


class ActorStore:
    """A policy store kept by `_Holder`, which every replica finds by name."""

    def __init__(self) -> None:
        self.holder: Any = (
            ray.remote(_Holder)
            .options(name=STORE, get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1)
            .remote()
        )
        self.known: Held | None = None

    def read(self) -> Policy | None:
        """The policy of the cluster, or None if none has been set."""
        self.known = ray.get(self.holder.read.remote(self.known))
        return None if self.known is None else self.known[1]

    def write(self, policy: Policy) -> None:
        """Set the policy; every replica uses it within POLL seconds."""
        self.known = ray.get(self.holder.write.remote(policy, self.known))


def application(
    file: str,
    policy: Policy,
    options: Options | None = None,
    *,
    replicas: int = 2,
    backend: str = "onnx",
    threads: int = 1,
) -> serve.Application:
    """The Ray Serve application: pass it to `serve.run`, which starts `replicas` processes of the same service.

    Each replica loads the model, measures its own times and chooses points for its own queue; all share the policy.
    """
    given = options or Options()

    def build() -> FastAPI:
        shared = replace(given, store=ActorStore(), poll=POLL)
        served = service(file, backend=backend, threads=threads, most=given.most, needed=policy.ladder)
        for problem in served.left_out.values():
            log.warning("left out: %s", problem)
        return make_app(served, policy, shared)

    @serve.deployment(num_replicas=replicas, ray_actor_options={"num_cpus": threads}, max_ongoing_requests=4096)
    @serve.ingress(build)
    class Rheostat:
        pass

    return Rheostat.bind()  # type: ignore[attr-defined]
