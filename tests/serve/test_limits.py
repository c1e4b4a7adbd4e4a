"""Hostile images and bodies: each is bounded in time, bytes and count, and the rest are served meanwhile."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import IMAGE, NPY, fake, npy, running
from PIL import Image

from rheostat.cli.app import main
from rheostat.serve import image_worker, workers
from rheostat.serve.app import make_app
from rheostat.serve.budgets import Budget, Rate, client_of
from rheostat.serve.decoding import Limits, Refusal, decode
from rheostat.serve.options import Options, Service
from rheostat.serve.policy import Policy
from rheostat.serve.state import State
from rheostat.serve.workers import Decoders

PNG = {"Content-Type": "image/png"}
GOOD = np.zeros((1, *IMAGE), np.float32)


def picture(form: str = "PNG", size: tuple[int, int] = (8, 8), mode: str = "L", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 120 if mode == "L" else (120,) * 3).save(buffer, form, **options)
    return buffer.getvalue()


def scans(count: int, size: int = 1024) -> bytes:
    """A progressive JPEG whose last scan is repeated: small, and slow to unpack."""
    raw = picture("JPEG", (size, size), progressive=True)
    last = raw.rindex(b"\xff\xda")
    return raw[:last] + raw[last:-2] * count + raw[-2:]


def header(text: bytes, data: bytes = b"\0" * 256) -> bytes:
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "shape",
    [
        b"(True, 1, 8, 8)",
        b"(1, 1, 8, 8, 1, 1)",
        b"(-1, 1, 8, 8)",
        b"(1.0, 1, 8, 8)",
        b"(1e1, 1, 8, 8)",
        b"(0x1, 1, 8, 8)",
        b"((1, 1), 8, 8)",
        b"(" + b"9" * 3900 + b", 1, 8, 8)",
        b"(999999999, 1, 8, 8)",
        b"[1, 1, 8, 8]",
        b"()",
        b"(" + b" " * 60000 + b")",
    ],
    ids=range(12),
)
def test_a_shape_is_a_few_plain_whole_numbers(shape: bytes) -> None:
    """`(True, 1, 8, 8)` and dimensions of 3 900 digits were errors of the server."""
    begun = time.monotonic()
    with pytest.raises(Refusal) as found:
        decode(header(b"{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + b", }"), *ARGUMENTS)
    assert found.value.status in (413, 422)
    assert len(found.value.detail) < 300
    assert time.monotonic() - begun < 1


ARGUMENTS = ("application/x-npy", IMAGE, Limits())


def test_headers_of_other_writers_are_read() -> None:
    for text in (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 8, 8)}",
        b"{'descr':'<f4','fortran_order':False,'shape':(1,8,8),}",
    ):
        assert decode(header(text), *ARGUMENTS).shape == (1, *IMAGE)


def test_grey_of_sixteen_bits_is_scaled() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(buffer, "PNG")
    assert np.allclose(decode(buffer.getvalue(), "image/png", IMAGE, Limits()), 0.5, atol=0.01)


def ask(decoders: Decoders, body: bytes, kind: str = "image/png", limits: Limits | None = None) -> np.ndarray:
    return asyncio.run(decoders.decode(body, kind, IMAGE, limits or Limits()))


def test_images_in_a_process_are_those_of_this_one() -> None:
    decoders = Decoders(1)
    try:
        decoders.start()
        for form in ("PNG", "JPEG", "WEBP"):
            for mode in ("L", "RGB"):
                body, kind = picture(form, (20, 13), mode), f"image/{form.lower()}"
                for image in (IMAGE, (3, 9, 7)):
                    here = decode(body, kind, image, Limits())
                    there = asyncio.run(decoders.decode(body, kind, image, Limits()))
                    assert np.array_equal(here, there)
        for body in (b"\0" * 99, picture()[:40], b"GIF89a"):
            with pytest.raises(Refusal, match="not a complete PNG") as found:
                ask(decoders, body)
            assert found.value.status == 422
        with pytest.raises(Refusal, match="more than 64 scans") as found:
            ask(decoders, scans(12_000, 64), "image/jpeg")
        assert found.value.status == 413
        assert decoders.ready
    finally:
        decoders.close()


def test_a_process_that_hangs_is_killed_and_replaced(tmp_path: Path, monkeypatch) -> None:
    """Readiness falls while every process is stuck, and comes back with a new one."""
    source = Path(image_worker.__file__).read_text()
    slow = source.replace("opened = decode(", "import time; time.sleep(60) if raw == b'hang' else 0; opened = decode(")
    crashes = slow.replace("opened = decode(", "import os; raw == b'crash' and os._exit(1); opened = decode(", 1)
    assert slow != source
    (tmp_path / "worker.py").write_text(crashes)
    monkeypatch.setattr(workers.image_worker, "__file__", str(tmp_path / "worker.py"))
    monkeypatch.setattr(workers, "STALLED", 0.2)
    killed: list[int] = []
    decoders = Decoders(1, seconds=1.0, killed=lambda: killed.append(1))
    try:
        decoders.start()
        found: list[Refusal] = []

        def hang() -> None:
            with pytest.raises(Refusal, match="more than 1 s to decode") as error:
                ask(decoders, b"hang")
            found.append(error.value)

        thread = threading.Thread(target=hang)
        thread.start()
        time.sleep(0.5)
        assert not decoders.ready
        thread.join(10)
        assert [f.status for f in found] == [422]
        assert decoders.ready
        with pytest.raises(Refusal, match="crashes its decoder"):
            ask(decoders, b"crash")
        assert len(killed) == 2
        decoders.seconds = 30.0
        assert ask(decoders, picture()).shape == (1, *IMAGE)
    finally:
        decoders.close()


def test_an_image_process_is_told_no_secret(monkeypatch) -> None:
    monkeypatch.setenv("RHEOSTAT_TOKEN", "a-token-for-tests")
    decoders = Decoders(1)
    try:
        process = decoders.workers[0].started()
        environment = Path(f"/proc/{process.pid}/environ")
        if environment.exists():
            assert b"RHEOSTAT" not in environment.read_bytes()
    finally:
        decoders.close()


def test_a_budget_is_given_back() -> None:
    budget = Budget("bytes", 100)
    with budget.hold("a") as one:
        one.add(25)
        with pytest.raises(Refusal) as found:
            one.add(1)
        assert found.value.status == 503
        with budget.hold("local", 75), pytest.raises(Refusal), budget.hold("b", 1):
            pass
        assert budget.used == 25
    assert budget.used == 0
    assert not budget.clients


def started_with(monkeypatch, *arguments: str) -> Options:
    """The options of a service that the command line starts."""
    found: list[Options] = []

    def kept(served: Service, policy: Policy, options: Options) -> None:
        found.append(options)
        raise ValueError("enough")

    monkeypatch.setattr("rheostat.serve.backends.service", lambda file, **options: fake())
    monkeypatch.setattr("rheostat.serve.app.make_app", kept)
    with pytest.raises(SystemExit):
        main(["serve", "oat-digits", "--ladder", "safe", *arguments])
    return found[0]


@pytest.mark.parametrize("given", ["--max-batch 256", "--queue 32", "--max-mb 64"])
def test_an_idle_server_takes_the_largest_request_of_any_client(given: str, monkeypatch) -> None:
    """Requests within the limits were answered 503 for ever, such as 40 MB with --max-mb 64."""
    options = started_with(monkeypatch, *given.split())
    limits = options.limits
    state = State(fake(), Policy(("safe",)), options)
    with state.images.hold("192.0.2.1", limits.max_images), state.bytes.hold("192.0.2.1", limits.max_bytes):
        pass
    with running(make_app(fake(), Policy(("safe",)), replace(options, store=None))) as client:
        many = npy(np.zeros((limits.max_images, *IMAGE), np.uint8))
        assert client.post("/v1/predict", content=many, headers=NPY).status_code == 200


def test_the_largest_request_is_served_by_a_queue_that_is_shorter() -> None:
    """64 images, the limit of one request, were more than the queue and a batch together: 503 for ever."""
    with running(make_app(fake(), Policy(("safe",)), Options(most=8, queue=32))) as client:
        many = npy(np.zeros((Limits().max_images, *IMAGE), np.uint8))
        assert client.post("/v1/predict", content=many, headers=NPY).status_code == 200


def test_one_body_may_not_be_larger_than_all_together() -> None:
    """A body within its limit got a 503 for ever."""
    with pytest.raises(ValueError, match=r"8388608 bytes .* only 4194304 \(bytes_in_flight\)"):
        make_app(fake(), Policy(("safe",)), Options(bytes_in_flight=4 * 2**20))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--max-mb 64 --max-mb-in-flight 32", "one body may have 64 MB (--max-mb), but all bodies together only 32 MB"),
        ("--max-mb inf", "--max-mb must be a finite number, given inf"),
        ("--rate inf", "--rate must be a finite number, given inf"),
    ],
)
def test_limits_that_cannot_be_are_refused_at_the_start(given: str, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "oat-digits", "--unmeasured-points", *given.split()])
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_rate_is_a_clients_own() -> None:
    rate = Rate(2)
    for _ in range(4):
        rate.check("a", 0.0)
    with pytest.raises(Refusal) as found:
        rate.check("a", 0.0)
    assert (found.value.status, found.value.retry) == (429, 1)
    rate.check("b", 0.0)
    rate.check("a", 0.5)
    for i in range(20_000):
        rate.check(str(i), 1.0)
    assert len(rate.clients) <= 10_000
    Rate(None).check("a")


def test_a_client_is_an_address_or_the_network_of_one() -> None:
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff") == "2001:db8::/64"
    assert client_of("192.0.2.1") != client_of("192.0.2.2")
    assert client_of("127.0.0.1") == client_of("::1") == client_of("::ffff:127.0.0.1") == client_of(None) == "local"
    assert client_of("::ffff:192.0.2.1") == client_of("192.0.2.1"), "one client for all IPv4 addresses"
    others = {client_of(name) for name in ("unknown", "_hidden", "local", "")}
    assert len(others) == 4, "what is no address had no limit"
    assert "local" not in others
    assert len(client_of("x" * 10_000)) < 100


def test_bodies_in_flight_are_bounded_in_sum(monkeypatch) -> None:
    states: list[State] = []

    def kept(served: Service, policy: Policy, options: Options) -> State:
        states.append(State(served, policy, options))
        return states[-1]

    monkeypatch.setattr("rheostat.serve.app.State", kept)
    app = make_app(fake(), Policy(("safe",)), Options(bytes_in_flight=1000, limits=Limits(1000)))
    with running(app) as client:
        assert client.post("/v1/predict", content=npy(GOOD), headers=NPY).status_code == 200
        with states[0].bytes.hold("another", 900):
            answer = client.post("/v1/predict", content=npy(GOOD), headers=NPY)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert client.post("/v1/predict", content=npy(GOOD), headers=NPY).status_code == 200
        for length in ("9" * 4000, "-1", "²", "1e3", "0x10"):
            headers = {**NPY, "Content-Length": length.encode()}
            assert client.post("/v1/predict", content=b"x", headers=headers).status_code == 413


def test_a_request_has_a_deadline_from_end_to_end() -> None:
    def slow(images: np.ndarray) -> np.ndarray:
        time.sleep(0.6)
        return np.full((len(images), 10), 0.1, np.float32)

    with running(make_app(fake(slow), Policy(("safe",)), Options(request_seconds=0.2))) as client:
        answer = client.post("/v1/predict", content=npy(GOOD), headers=NPY)
        assert answer.status_code == 504
        assert "longer than 0.2 s" in answer.json()["detail"]


@pytest.mark.parametrize("wrong", ["raises", "nan", "short"])
def test_an_error_that_nobody_meant_is_counted_and_answered(wrong: str) -> None:
    def run(images: np.ndarray) -> np.ndarray:
        if wrong == "raises":
            raise KeyError("secret")
        return np.full((len(images) - (wrong == "short"), 10), np.nan if wrong == "nan" else 0.1, np.float32)

    with running(make_app(fake(run), Policy(("safe",)))) as client:
        answer = client.post("/v1/predict", content=npy(GOOD), headers=NPY)
        assert answer.status_code == 500
        assert answer.json() == {"detail": "internal server error"}
        assert "rheostat_errors_total 1.0" in client.get("/metrics").text


def test_a_rate_is_answered_429_and_counted() -> None:
    with running(make_app(fake(), Policy(("safe",)), Options(rate=1))) as client:
        found = [client.post("/v1/predict", content=npy(GOOD), headers=NPY) for _ in range(5)]
        assert [f.status_code for f in found][:3] == [200, 200, 429]
        assert int(found[2].headers["retry-after"]) >= 1
        assert 'rheostat_refused_total{status="429"}' in client.get("/metrics").text


def test_the_small_promises(caplog) -> None:
    """HEAD for probes, a page that loads nothing, one line of JSON a request."""
    caplog.set_level("INFO", "rheostat.access")
    with running(make_app(fake(), Policy(("safe",)), Options(access_log=True))) as client:
        for path in ("/healthz", "/readyz"):
            assert client.head(path).status_code == 200
        page = client.get("/docs")
        assert "/v1/predict" in page.text
        assert "<script" not in page.text
        assert "://" not in page.text.replace("http://127", "")
        assert page.headers["content-security-policy"].startswith("default-src 'none'")
        client.get("/nothing%0A%1B%5B2J")

    lines = [json.loads(r.getMessage()) for r in caplog.records if r.name == "rheostat.access"]
    assert lines[0]["method"] == "HEAD"
    assert lines[-1]["status"] == 404
    assert all(r.getMessage().isascii() and "\n" not in r.getMessage() for r in caplog.records)


def test_the_openapi_is_made_of_the_models() -> None:
    found = make_app(fake(), Policy(("safe",))).openapi()
    policy = found["components"]["schemas"]["PolicyBody"]["properties"]
    assert policy["ladder"]["maxItems"] == 64
    assert policy["target_ms"]["maximum"] == 60000
    assert "Prediction" in found["components"]["schemas"]
