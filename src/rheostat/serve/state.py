"""The state of a running application: engine, policy, budgets, decoder processes, metrics."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict, replace

from rheostat.serve.budgets import Budget, Rate
from rheostat.serve.controllers import controller, useless
from rheostat.serve.costs import idle_steps, late_exits
from rheostat.serve.decoding import Refusal
from rheostat.serve.engine import Engine, Served
from rheostat.serve.gate import Gate
from rheostat.serve.metrics import Metrics
from rheostat.serve.options import Options, Service
from rheostat.serve.policy import Policy, floor, settled, strict
from rheostat.serve.scheduling import Controller
from rheostat.serve.stores import found_at_start, of_model
from rheostat.serve.workers import Decoders

log = logging.getLogger("rheostat.serve")


class State:
    """The state of one application. ValueError for an invalid policy or invalid options."""

    def __init__(self, served: Service, policy: Policy, options: Options) -> None:
        limits = options.limits
        if limits.max_bytes > options.bytes_in_flight:
            raise ValueError(
                f"one body may have {limits.max_bytes} bytes (limits.max_bytes), but all bodies together only "
                f"{options.bytes_in_flight} (bytes_in_flight)"
            )
        options = replace(options, store=of_model(options.store, served.artifact))
        self.served, self.options = served, options
        self.gate = Gate(options)
        self.metrics = Metrics()
        self.least = policy.min_robust
        """The floor that the server was started with; no later policy may set a lower one."""
        stored, about = found_at_start(options.store)
        self.policy, note = settled(policy, stored, served.measured, check=self._controller)
        self.notes = [*filter(None, (note, about)), *late_exits(served.costs)]
        unused = [n for n in self.policy.ladder if n not in floor(self.policy, served.measured)]
        if unused:
            self.notes.append(f"below the policy's floor, never used: {', '.join(unused)} (see --min-robust)")
        if all(name in served.costs for name in self.policy.ladder):
            worse = useless(floor(self.policy, served.measured), served.measured, served.costs)
            self.notes += [
                f"{name} is never used: {other} is as fast, as accurate and as robust, or more"
                for name, other in worse.items()
            ]
            self.notes += idle_steps(self._controller(self.policy).allowed, served.costs)
        self.storing = asyncio.Lock()
        self.bytes = Budget("bytes of bodies", options.bytes_in_flight, largest=limits.max_bytes)
        # The queue bounds the total, so that the controller learns of every request that finds no room.
        waiting = options.queue + options.most
        self.images = Budget("images in the queue", waiting, largest=limits.max_images, bounded=False)
        self.rate = Rate(options.rate)
        self.decoders = Decoders(options.decoders, seconds=limits.image_seconds, killed=self.metrics.killed.inc)
        self.engine = Engine(
            served.runs,
            self._controller(self.policy),
            most=options.most,
            queue=options.queue,
            deadline=options.deadline,
            note=self._note,
        )

    @property
    def ready(self) -> bool:
        """Whether the server can decode images and serve batches now."""
        return self.engine.ready and self.decoders.ready

    def allowed(self, new: Policy) -> Policy:
        """The policy under the server's initial floor if its points and its controller work; ValueError otherwise."""
        held = strict(new, self.least, measured=self.served.measured)
        self._controller(held)
        return held

    async def keep(self, new: Policy) -> None:
        """Store a policy, then use it. If it cannot be stored: Refusal (503), and nothing changes."""
        async with self.storing:
            if self.options.store is not None:
                try:
                    await asyncio.to_thread(self.options.store.write, new)
                except OSError as error:
                    self.metrics.errors.inc()
                    log.error("the policy could not be stored: %s", error)
                    raise Refusal(
                        503, f"the policy could not be stored ({error.strerror}); nothing has changed"
                    ) from None
            self.take(new)

    def take(self, new: Policy) -> None:
        """Use a policy from the next batch on."""
        # One assignment: a batch asks the controller once, so it runs under the old policy or the new one.
        self.engine.controller = self._controller(new)
        self.policy = new
        self.metrics.policies.inc()
        log.info("policy: %s", asdict(new))

    async def follow(self) -> None:
        """Follow the policy that other servers store, until the application ends."""
        store, poll = self.options.store, self.options.poll
        refused: Policy | None = None
        logged = ""
        while store is not None and poll is not None:
            await asyncio.sleep(poll)
            # A policy that was read before another was stored here must not be used after it.
            async with self.storing:
                try:
                    new = await asyncio.to_thread(store.read)
                    logged = ""
                except Exception as error:  # neither a file nor a cluster's actor may end this task
                    if str(error) != logged:
                        logged = str(error)
                        log.warning("the stored policy could not be read: %s", logged)
                    continue
                if new is None or new in (self.policy, refused):
                    continue
                try:
                    self.take(self.allowed(new))
                    refused = None if self.policy == new else new
                except ValueError as error:
                    refused = new
                    log.warning("the stored policy is not used: %s", error)

    def _controller(self, policy: Policy) -> Controller:
        return controller(policy, self.served.measured, self.served.costs)

    def _note(self, found: Served) -> None:
        self.metrics.images.labels(found.point).inc(found.images)
        self.metrics.waited.observe(found.waited)
        self.metrics.batch.observe(found.seconds)
        allowed = self.engine.controller.allowed
        if found.point in allowed:  # the policy may have changed since, or the client chose the point
            self.metrics.place.set(allowed.index(found.point))
        if found.step:
            self.metrics.steps.labels("down" if found.step > 0 else "up").inc()
            log.info("ladder: now at %s (waited %.0f ms)", found.point, 1e3 * found.waited)
