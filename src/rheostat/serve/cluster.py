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

STORE = "rheostat-policy-3"
"""The name of the actor. Its number changes with the calls of `_Holder`, because the actor outlives an update."""
POLL = 0.2
"""Seconds until every replica has picked up a change of policy, at most."""
STARTING, ANSWERING = 120.0, 10.0
"""Seconds to wait for the first answer of the actor, whose process may have to start, and for each later one."""
Held = tuple[int, Policy]
"""A policy and its number: each change has a higher one than the policy before it."""


class _Holder:
    """An actor that holds the policies of a cluster, by the hash of the model; points of two models may share names.

    If Ray restarts it, it is empty until the replicas tell it what they know.
    """

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}

    def read(self, artifact: str, known: Held | None) -> Held | None:
        """The latest policy of a model; `known` is what the caller has read or written before."""
        latest = self.held.get(artifact)
        # After a restart, a replica that has not yet seen the last change may be the first to call.
        if known is not None and (latest is None or known[0] > latest[0]):
            self.held[artifact] = latest = known
        return latest

    def write(self, artifact: str, policy: Policy, known: Held | None) -> Held:
        """Hold a policy as the latest of a model; it is returned with its number."""
        latest = self.read(artifact, known)
        self.held[artifact] = new = (1 if latest is None else latest[0] + 1, policy)
        return new


class ActorStore:
    """A model's policy, kept by `_Holder`, which every replica on the cluster finds by name."""

    def __init__(self, artifact: str) -> None:
        self.artifact = artifact
        self.holder: Any = (
            ray.remote(_Holder)
            .options(name=STORE, get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=-1)
            .remote()
        )
        self.known: Held | None = None
        self.patience = STARTING

    def read(self) -> Policy | None:
        """The policy of the model, or None if none has been set; OSError if the actor does not answer."""
        self.known = self._answer(self.holder.read.remote(self.artifact, self.known))
        return None if self.known is None else self.known[1]

    def write(self, policy: Policy) -> None:
        """Set the policy; every replica uses it within POLL seconds. OSError if the actor does not answer."""
        self.known = self._answer(self.holder.write.remote(self.artifact, policy, self.known))

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
