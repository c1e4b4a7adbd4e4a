"""The service on Ray Serve: two replicas on a local cluster, one policy."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fakes import BEARER, IMAGE, MEASURED, NPY, TOKEN, npy

from rheostat.models import artifact
from rheostat.points.point import Point
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy


def test_a_policy_outlives_a_restart_of_its_actor(monkeypatch) -> None:
    """The replicas fill an empty actor with the latest policy that any of them knows."""
    from rheostat.serve import cluster

    def remote(call: Callable[..., Any]) -> SimpleNamespace:
        return SimpleNamespace(remote=call)

    def started(store: cluster.ActorStore) -> cluster._Holder:
        actor = cluster._Holder()
        store.holder = SimpleNamespace(read=remote(actor.read), write=remote(actor.write))
        return actor

    options: dict[str, Any] = {}
    made = SimpleNamespace(options=lambda **given: options.update(given) or remote(lambda: None))
    monkeypatch.setattr(cluster, "ray", SimpleNamespace(get=lambda found, timeout: found, remote=lambda kind: made))
    store = cluster.ActorStore("a1b2")
    assert options["max_restarts"] == -1
    started(store)
    assert store.read() is None
    store.write(Policy(("safe",)))
    actor = started(store)
    assert store.read() == Policy(("safe",))
    behind = cluster.ActorStore("a1b2")
    behind.holder = store.holder
    assert behind.read() == Policy(("safe",))
    store.write(Policy(("fast",)))
    actor = started(store)
    behind.holder = store.holder
    assert behind.read() == Policy(("safe",))  # it has not seen the change, and is the first to call
    assert store.read() == behind.read() == Policy(("fast",))
    assert actor.held == {"a1b2": (2, Policy(("fast",)))}
    behind.write(Policy(("safe", "fast")))
    assert store.read() == Policy(("safe", "fast"))
    # One actor holds the policies of all models on the cluster, and none takes that of another.
    name = options["name"]
    other = cluster.ActorStore("c3d4")
    other.holder = store.holder
    assert options["name"] == name
    assert other.read() is None
    other.write(Policy(("fast",)))
    assert (other.read(), store.read()) == (Policy(("fast",)), Policy(("safe", "fast")))


@pytest.mark.parametrize("lost", ["dead", "slow"])
def test_an_actor_that_does_not_answer_is_an_error_of_storing(lost: str, monkeypatch) -> None:
    """It was answered with 500 or never, although security.md promises a 503 that names the reason."""
    from ray.exceptions import GetTimeoutError, RayActorError

    from rheostat.serve import cluster

    cancelled: list[str] = []

    def get(call: str, timeout: float) -> None:
        assert 0 < timeout < 600
        raise GetTimeoutError("late") if lost == "slow" else RayActorError()

    actor = SimpleNamespace(write=SimpleNamespace(remote=lambda artifact, policy, known: "the call"))
    made = SimpleNamespace(options=lambda **given: SimpleNamespace(remote=lambda: actor))
    ray = SimpleNamespace(get=get, cancel=cancelled.append, remote=lambda kind: made)
    monkeypatch.setattr(cluster, "ray", ray)
    with pytest.raises(OSError, match="does not answer") as found:
        cluster.ActorStore("a1b2").write(Policy(("safe",)))
    assert found.value.strerror
    assert cancelled == (["the call"] if lost == "slow" else [])


def test_a_cluster_takes_no_other_store(tmp_path: Path) -> None:
    from rheostat.serve.cluster import application
    from rheostat.serve.stores import FileStore

    with pytest.raises(ValueError, match="take no store"):
        application("oat-digits", Policy(("safe",)), Options(store=FileStore(tmp_path / "policy.json")))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_replicas_share_a_policy(tmp_path: Path, monkeypatch) -> None:
    # Beside other tests on two cores a proxy needs longer than the five seconds that it has by default.
    monkeypatch.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    monkeypatch.setenv("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "120")
    import ray
    from ray import serve

    from rheostat.serve.cluster import application

    file = tmp_path / "model.safetensors"
    shutil.copy(artifact.packaged()["oat-digits"], file)
    for name, t in (("safe", 1.0), ("fast", 0.0)):
        artifact.name_point(file, name, Point(robustness=t), MEASURED[name])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(str(file), Policy(("safe",)), Options(token=TOKEN), backend="torch"), name="rheostat")
        url = f"http://127.0.0.1:{port}"
        body = npy(np.zeros((2, *IMAGE), np.float32))

        def points(count: int) -> set[str]:
            found = [httpx.post(f"{url}/v1/predict", content=body, headers=NPY, timeout=30) for _ in range(count)]
            assert all(a.status_code == 200 for a in found)
            return {a.json()["point"] for a in found}

        assert points(20) == {"safe"}
        assert httpx.put(f"{url}/v1/policy", json={"ladder": ["fast"]}).status_code == 401
        answer = httpx.put(f"{url}/v1/policy", json={"ladder": ["fast"]}, headers=BEARER, timeout=30)
        assert answer.status_code == 200
        time.sleep(1.5)
        # Whichever replica answers, it stands at the one policy.
        assert points(40) == {"fast"}
        # The Open Inference Protocol is there too, under the same policy, and both replicas list the same points.
        tensor = {"name": "images", "datatype": "FP32", "shape": [1, *IMAGE], "data": [0.5] * 64}
        listed, named = [], set()
        for _ in range(20):
            found = httpx.post(f"{url}/v2/models/rheostat/infer", json={"inputs": [tensor]}, timeout=30)
            assert found.status_code == 200
            named.add(found.json()["parameters"]["point"])
            listed.append(httpx.get(f"{url}/v1/points", timeout=30).json())
        assert named == {"fast"}
        assert all((x["points"], x["policy"]) == (listed[0]["points"], listed[0]["policy"]) for x in listed)
        assert listed[0]["policy"]["controller"] == "goodput"
        status = serve.status().applications["rheostat"]
        assert sum(d.replica_states.get("RUNNING", 0) for d in status.deployments.values()) == 2
    finally:
        serve.shutdown()
        ray.shutdown()
