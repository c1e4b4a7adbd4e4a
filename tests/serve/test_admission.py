"""The controllers in a running service: refused early, warned about a ladder that saves nothing, changed by policy."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import BEARER, IMAGE, NPY, TOKEN, fake, npy, running
from fastapi.testclient import TestClient

from rheostat.serve.app import make_app
from rheostat.serve.backends import service
from rheostat.serve.connections import RECEIVED
from rheostat.serve.costs import Times
from rheostat.serve.decoding import tensor
from rheostat.serve.options import Options
from rheostat.serve.policy import Policy, default_target
from rheostat.serve.scheduling import Decision
from rheostat.serve.stores import FileStore

GOOD = npy(np.zeros((1, *IMAGE), np.float32))
SLOW = 0.2


def slow(images: np.ndarray) -> np.ndarray:
    time.sleep(SLOW)
    return np.full((len(images), 10), 0.1, np.float32)


def test_a_request_that_would_be_late_is_refused_at_once() -> None:
    costs = dict.fromkeys(("safe", "balanced", "fast"), Times(((1, SLOW), (2, 2 * SLOW))))
    served = replace(fake(slow), costs=costs)
    app = make_app(served, Policy(("safe", "balanced"), 1e3 * 2.5 * SLOW, 0.3), Options(most=1, deadline=0.0))

    def ask(_: int) -> tuple[int, float, str]:
        begun = time.monotonic()
        answer = client.post("/v1/predict", content=GOOD, headers=NPY)
        assert answer.status_code == 200 or int(answer.headers["retry-after"]) >= 1
        return answer.status_code, time.monotonic() - begun, answer.text

    with running(app) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(ask, range(8)))
        assert 'rheostat_refused_total{status="503"}' in client.get("/metrics").text
        assert ask(0)[0] == 200, "an idle server refuses nobody"
    assert {status for status, _, _ in found} == {200, 503}
    assert sum(status == 200 for status, _, _ in found) <= 4
    for status, seconds, text in found:
        if status == 503:
            assert "no allowed point could answer in time" in text
            assert seconds < SLOW


@pytest.mark.parametrize("part", ["decide", "expected", "observe"])
def test_a_server_that_has_failed_says_so_and_keeps_nobody_waiting(part: str, monkeypatch) -> None:
    """After an error of the controller, requests were admitted and waited for their 504; /healthz stayed at 200."""
    app = make_app(fake(), Policy(("safe",)))

    def broken(*_: object) -> Decision:
        raise KeyError("fast")

    monkeypatch.setattr(app.state.engine.controller, part, broken)
    client = running(app).__enter__()
    for path in ("/healthz", "/v2/health/live"):
        assert client.get(path).status_code == 200
    for _ in range(2):
        answer = client.post("/v1/predict", content=GOOD, headers=NPY)
        assert answer.status_code == 503
        assert "the server has stopped answering" in answer.text
    for path in ("/healthz", "/v2/health/live", "/readyz"):
        assert client.get(path).status_code == 503
    with pytest.raises(KeyError, match="fast"):
        client.__exit__(None, None, None)


@pytest.mark.parametrize("kind", ["goodput", "steps"])
def test_the_controller_learns_of_requests_that_find_no_room(kind: str, monkeypatch) -> None:
    """Another limit, of the same size, refused them first."""
    policy = Policy(("safe", "fast"), 60_000, 0.0, kind)
    app = make_app(fake(slow), policy, Options(most=1, queue=2, deadline=0.0))
    told: list[int] = []
    monkeypatch.setattr(app.state.engine.controller, "refused", lambda load, job: told.append(job.count))
    with running(app) as client, ThreadPoolExecutor(12) as threads:
        found = [*threads.map(lambda _: client.post("/v1/predict", content=GOOD, headers=NPY), range(12))]
    full = [answer for answer in found if answer.status_code == 503]
    assert full
    assert all("the queue is full" in answer.text for answer in full)
    assert len(told) == len(full)


def test_a_point_without_times_does_not_end_the_service() -> None:
    """`?point=` of such a point ended it, and so did a change of controller while one of its batches ran."""
    served = replace(fake(), costs={"safe": Times(((1, 0.001),))})
    app = make_app(served, Policy(("safe",)), Options(client_dial=True))
    with running(app) as client:
        headers = {**NPY, "Host": "localhost"}
        assert client.post("/v1/predict?point=fast", content=GOOD, headers=headers).json()["point"] == "fast"
        assert client.post("/v1/predict", content=GOOD, headers=NPY).json()["point"] == "safe"


def test_a_ladder_that_saves_no_time_is_warned_about() -> None:
    notes = make_app(fake(), Policy(("safe", "balanced"))).state.notes
    assert any("the step from safe to balanced saves no time" in n for n in notes)
    costs = {"safe": Times(((1, 0.01),)), "balanced": Times(((1, 0.005),)), "fast": Times(((1, 0.001),))}
    app = make_app(replace(fake(), costs=costs), Policy(("safe", "fast", "balanced"), min_robust=0.0))
    assert app.state.notes == []
    assert app.state.engine.controller.allowed == ("safe", "balanced", "fast")


def test_the_controller_is_part_of_the_policy() -> None:
    with running(make_app(fake(), Policy(("safe",)), Options(token=TOKEN))) as client:
        assert client.get("/v1/points").json()["policy"]["controller"] == "goodput"
        changed = client.put("/v1/policy", json={"ladder": ["safe"], "controller": "steps"}, headers=BEARER)
        assert changed.json()["controller"] == "steps"
        assert client.post("/v1/predict", content=GOOD, headers=NPY).status_code == 200
        wrong = client.put("/v1/policy", json={"ladder": ["safe"], "controller": "slak"}, headers=BEARER)
        assert wrong.status_code == 422
        assert "controller" in wrong.json()["detail"]
    with pytest.raises(ValueError, match="no measured times of safe"):
        make_app(replace(fake(), costs={}), Policy(("safe",)))


def test_a_policy_whose_controller_cannot_work_is_not_stored(tmp_path: Path) -> None:
    """It was stored and then answered with 500, and the server could not start again."""
    store = FileStore(tmp_path / "policy.json")
    app = make_app(replace(fake(), costs={}), Policy(("safe",), controller="steps"), Options(token=TOKEN, store=store))
    with running(app) as client:
        answer = client.put("/v1/policy", json={"ladder": ["safe"], "controller": "goodput"}, headers=BEARER)
        assert answer.status_code == 422
        assert "no measured times of safe" in answer.json()["detail"]
        assert store.read() is None
        assert client.get("/v1/points").json()["policy"]["controller"] == "steps"


def test_torch_serves_no_lower_precision() -> None:
    with pytest.raises(ValueError, match="torch serves in fp32, given the precision bf16"):
        service("oat-digits", backend="torch", precision="bf16", every=True)


def test_a_service_is_timed_when_it_is_made(tmp_path: Path) -> None:
    served = service("oat-digits", backend="torch", every=True, most=8)
    assert set(served.costs) == set(served.runs)
    for times in served.costs.values():
        assert [n for n, _ in times.measured] == [1, 4, 8]
    first = next(iter(served.costs))
    assert default_target(first, served.costs) >= 50
    assert default_target("a", {"a": Times(((1, 0.1),))}) == 500
    with pytest.raises(ValueError, match="no file"):
        service("oat-digits", backend="torch", every=True, costs=tmp_path / "none.jsonl")


def waited(client: TestClient) -> float:
    """The sum of the waits of all batches, in seconds."""
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("rheostat_wait_seconds_sum"))


def test_a_wait_for_the_event_loop_is_part_of_a_requests_wait() -> None:
    """Load causes it, so the policy must see it."""

    class Busy:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, RECEIVED: time.perf_counter() - SLOW}, receive, send)

    app = make_app(fake(), Policy(("safe",)))
    app.add_middleware(Busy)
    with running(app) as client:
        assert client.post("/v1/predict", content=GOOD, headers=NPY).status_code == 200
        assert waited(client) >= SLOW


@pytest.mark.parametrize("kind", ["goodput", "slack", "steps"])
def test_an_image_that_is_slow_to_decode_does_not_move_the_dial(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only load may: else a few large images would lower the robustness for everybody."""

    def late(*given: Any) -> np.ndarray:
        time.sleep(SLOW)
        return tensor(*given)

    monkeypatch.setattr("rheostat.serve.workers.tensor", late)
    app = make_app(fake(), Policy(("safe", "fast"), 1e3 * SLOW / 2, 0.0, kind))
    with running(app) as client:
        for _ in range(6):
            assert client.post("/v1/predict", content=GOOD, headers=NPY).json()["point"] == "safe"
        assert waited(client) < SLOW
