"""The same service on Ray Serve: several replicas behind one address share one policy."""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve
from ray.exceptions import GetTimeoutError, RayError

from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy

log = logging.getLogger("rheostat.serve")

STORE = "rheostat-policy-2"
"""The actor's name begins so and ends with the model's hash, because points of another model may have the same names.
The number changes with the calls of `_Holder`, because the actor outlives an update."""
POLL = 0.2
"""Seconds until every replica has picked up a change of policy, at most."""
STARTING, ANSWERING = 120.0, 10.0
"""Seconds to wait for the first answer of the actor, whose process may have to start, and for each later one."""
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
    """A policy store kept by `_Holder`, which every replica of a model finds by name."""

    def __init__(self, artifact: str) -> None:
        self.holder: Any = (
            ray.remote(_Holder)
            .options(name=f"{STORE}-{artifact}", get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1)
            .remote()
        )
        self.known: Held | None = None
        self.patience = STARTING

    def read(self) -> Policy | None:
        """The policy of the cluster, or None if none has been set; OSError if the actor does not answer."""
        self.known = self._answer(self.holder.read.remote(self.known))
        return None if self.known is None else self.known[1]

    def write(self, policy: Policy) -> None:
        """Set the policy; every replica uses it within POLL seconds. OSError if the actor does not answer."""
        self.known = self._answer(self.holder.write.remote(policy, self.known))

    def _answer(self, call: Any) -> Held | None:
        try:
            found: Held | None = ray.get(call, timeout=self.patience)
        except RayError as error:
            if isinstance(error, GetTimeoutError):
                ray.cancel(call)  # a policy that was refused must not be set when the actor comes back
            raise OSError(
                errno.EIO, f"the actor that holds the policy does not answer: {type(error).__name__}"
            ) from error
        self.patience = ANSWERING
        return found


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

    Each replica loads the model, measures its own times and chooses points for its own queue; all share the policy,
    which the cluster keeps. ValueError if the options name another store.
    """
    given = options or Options()
    if given.store is not None:
        raise ValueError(f"on Ray the cluster keeps the policy, so the options take no store; given {given.store!r}")

    def build() -> FastAPI:
        served = service(file, backend=backend, threads=threads, most=given.most, needed=policy.ladder)
        shared = replace(given, store=ActorStore(served.artifact), poll=POLL)
        for problem in served.left_out.values():
            log.warning("left out: %s", problem)
        return make_app(served, policy, shared)

    @serve.deployment(num_replicas=replicas, ray_actor_options={"num_cpus": threads}, max_ongoing_requests=4096)
    @serve.ingress(build)
    class Rheostat:
        pass

    return Rheostat.bind()  # type: ignore[attr-defined]
