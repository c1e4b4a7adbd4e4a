"""The service's Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The metrics of one application, in a separate registry."""

    def __init__(self) -> None:
        here = self.registry = CollectorRegistry()
        self.images = Counter("rheostat_images", "Images predicted", ["point"], registry=here)
        self.refused = Counter("rheostat_refused", "Requests refused", ["status"], registry=here)
        self.errors = Counter("rheostat_errors", "Unexpected errors", registry=here)
        self.left = Counter("rheostat_disconnects", "Requests whose client disconnected", registry=here)
        self.killed = Counter("rheostat_decoders_killed", "Image decoder processes killed and replaced", registry=here)
        self.steps = Counter("rheostat_ladder_steps", "Steps on the load ladder", ["direction"], registry=here)
        self.policies = Counter("rheostat_policy_changes", "Changes of policy", registry=here)
        self.waited = Histogram("rheostat_wait_seconds", "Longest wait of a batch", registry=here)
        self.batch = Histogram("rheostat_batch_seconds", "Time of a batch in the model", registry=here)
        self.waiting = Gauge("rheostat_waiting_images", "Images in the queue", registry=here)
        self.held = Gauge("rheostat_bytes_in_flight", "Bytes of request bodies in memory", registry=here)
        self.place = Gauge("rheostat_ladder_place", "Position on the ladder; 0 is the preferred point", registry=here)
