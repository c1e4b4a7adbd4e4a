"""Policy as text, what a stored one is worth, tokens, and who may use them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from fakes import BEARER, IMAGE, MEASURED, NPY, TOKEN, fake, npy, running
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.serve.app import make_app
from rheostat.serve.options import Options
from rheostat.serve.policy import NotJSON, Policy, parse_policy, settled, strict
from rheostat.serve.stores import FileStore
from rheostat.serve.tokens import Tokens

GOOD = npy(np.zeros((1, *IMAGE), np.float32))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[]", "a policy is a JSON object"),
        (b"null", "a policy is a JSON object"),
        (b"{}", "ladder is a list of point names"),
        (b'{"ladder": "safe"}', "ladder is a list"),
        (b'{"ladder": []}', "ladder: list should have at least 1"),
        (b'{"ladder": [1]}', r"ladder\.0|ladder is a list"),
        (b'{"ladder": ["x"], "laddr": 1}', "did you mean 'ladder'"),
        (b'{"ladder": ["x"], "target_ms": true}', "target_ms: "),
        (b'{"ladder": ["x"], "target_ms": "9"}', "target_ms: "),
        (b'{"ladder": ["x"], "target_ms": ' + b"9" * 401 + b"}", "target_ms: "),
        (b'{"ladder": ["x"], "target_ms": NaN}', "target_ms: "),
        (b'{"ladder": ["x"], "target_ms": 1e999}', "target_ms: "),
        (b'{"ladder": ["x"], "min_robust": -Infinity}', "min_robust: "),
        (b'{"ladder": ["x"], "min_robust": 1.5}', "min_robust: "),
        (json.dumps({"ladder": ["x" * 101]}).encode(), r"ladder\.0: "),
        (json.dumps({"ladder": ["x"] * 65}).encode(), "ladder: "),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_a_sentence(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        parse_policy(text)
    assert not isinstance(error.value, NotJSON)
    assert len(str(error.value)) < 400


def test_a_number_of_five_thousand_digits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"target_ms|not JSON"):
        parse_policy(b'{"ladder": ["x"], "target_ms": -' + b"9" * 5000 + b"}")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"{'ladder': 1}"])
def test_what_is_not_json_is_told_so(text: bytes) -> None:
    with pytest.raises(NotJSON):
        parse_policy(text)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=80)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
        max_leaves=8,
    ).map(lambda v: json.dumps({"ladder": ["a"], "target_ms": v} if isinstance(v, float) else v).encode())
)
def test_no_text_is_worse_than_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert isinstance(parse_policy(text), Policy)


def test_the_stricter_floor_holds_and_the_start_says_so() -> None:
    given, stored = Policy(("safe", "fast"), min_robust=0.3), Policy(("balanced", "fast"), min_robust=0.05)
    held, note = settled(given, stored, MEASURED)
    assert held == Policy(("balanced", "fast"), min_robust=0.3)
    assert "stricter" in note
    held, note = settled(Policy(("safe",), min_robust=0.5), stored, MEASURED)
    assert held.ladder == ("safe",)
    assert "not used" in note
    held, note = settled(Policy(("safe",), min_robust=0.01), stored, MEASURED)
    assert held == stored
    assert "the stored policy applies" in note
    assert settled(given, None, MEASURED) == (given, "")
    assert strict(Policy(("safe",)), 0.35, measured=MEASURED).min_robust == 0.35
    with pytest.raises(ValueError, match="stricter, not weaker"):
        strict(Policy(("safe",), min_robust=0.2), 0.3, measured=MEASURED)


def test_a_floor_that_is_not_written_is_never_lowered_by_the_one_of_the_start(tmp_path: Path) -> None:
    """A policy without `min_robust` took the floor of the start, 0.05, instead of half of the first point's, 0.3."""
    given, stored = Policy(("safe",), min_robust=0.05), Policy(("safe", "fast"))
    held, note = settled(given, stored, MEASURED)
    assert held == stored
    assert "no point below 0.3" in note
    assert "stricter" not in note
    assert settled(given, Policy(("gone",)), MEASURED)[0] == given
    store = FileStore(tmp_path / "policy.json")
    app = make_app(fake(), given, Options(token=TOKEN, store=store))
    with running(app) as client:
        answer = client.put("/v1/policy", json={"ladder": ["safe", "fast"]}, headers=BEARER)
        assert answer.json()["min_robust"] is None
        assert client.get("/v1/points").json()["used"] == ["safe"]
        answer = client.put("/v1/policy", json={"ladder": ["gone"]}, headers=BEARER)
        assert answer.status_code == 422
        assert "no point named 'gone'" in answer.json()["detail"]


def test_a_running_server_keeps_the_floor_of_its_start(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "policy.json")
    store.write(Policy(("balanced", "fast"), min_robust=0.0))
    app = make_app(fake(), Policy(("safe", "fast"), min_robust=0.3), Options(token=TOKEN, store=store))
    assert "stricter" in app.state.notes[0]
    with running(app) as client:
        assert client.get("/v1/points").json()["used"] == ["balanced"]
        answer = client.put("/v1/policy", json={"ladder": ["safe", "fast"], "min_robust": 0}, headers=BEARER)
        assert answer.status_code == 422
        assert "stricter" in answer.json()["detail"]
        # A floor that is not written is half of the first point's, unless that of the start is stricter.
        for ladder, least in ((["safe", "fast"], None), (["balanced", "safe"], 0.3)):
            answer = client.put("/v1/policy", json={"ladder": ladder}, headers=BEARER)
            assert answer.json()["min_robust"] == least
        assert client.get("/v1/points").json()["used"] == ["balanced", "safe"]


def test_a_stored_policy_whose_controller_cannot_run_does_not_stop_the_start(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "policy.json")
    store.write(Policy(("safe", "fast")))
    app = make_app(replace(fake(), costs={}), Policy(("balanced",), controller="steps"), Options(store=store))
    assert "the stored policy is not used" in app.state.notes[0]
    with running(app) as client:
        assert client.get("/v1/points").json()["used"] == ["balanced"]


def test_a_second_server_of_the_folder_sees_the_change(tmp_path: Path) -> None:
    options = Options(token=TOKEN, store=FileStore(tmp_path / "policy.json"), poll=0.05)

    def server() -> TestClient:
        return running(make_app(fake(), Policy(("safe",)), options))

    with server() as one, server() as two:
        assert one.put("/v1/policy", json={"ladder": ["balanced"]}, headers=BEARER).status_code == 200
        for _ in range(100):
            if two.get("/v1/points").json()["current"] == "balanced":
                break
            time.sleep(0.05)
        assert two.get("/v1/points").json()["current"] == "balanced"
        (tmp_path / "policy.json").write_text("{")
        time.sleep(0.2)
        assert two.get("/v1/points").json()["current"] == "balanced"


def test_a_policy_of_another_model_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Points of two models may have the same names, and shipped models share the current folder's policy.json."""
    options = Options(token=TOKEN, store=FileStore(tmp_path / "policy.json"), poll=0.05)
    one, two = (make_app(replace(fake(), artifact=name), Policy(("safe",)), options) for name in ("one", "two"))
    with running(one) as first, running(two) as second:
        assert first.put("/v1/policy", json={"ladder": ["balanced"]}, headers=BEARER).status_code == 200
        time.sleep(0.3)
        assert second.get("/v1/points").json()["current"] == "safe"
    assert caplog.text.count("holds the policy of another model, 'one'") == 1
    for name, point in (("one", "balanced"), ("two", "safe")):
        app = make_app(replace(fake(), artifact=name), Policy(("safe",)), options)
        assert any("the stored policy is not used" in note for note in app.state.notes) is (name == "two")
        with running(app) as client:
            assert client.get("/v1/points").json()["current"] == point


def test_a_policy_that_an_earlier_version_stored_is_read_and_said_once(tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text('{"ladder": ["balanced"], "target_ms": 40.0, "min_robust": null, "controller": "goodput"}')
    options = Options(token=TOKEN, store=FileStore(path))
    app = make_app(fake(), Policy(("safe",)), options)
    assert sum("does not say which model" in note for note in app.state.notes) == 1
    with running(app) as client:
        assert client.get("/v1/points").json()["current"] == "balanced"
        assert client.put("/v1/policy", json={"ladder": ["fast"]}, headers=BEARER).status_code == 200
    assert json.loads(path.read_text())["artifact"] == fake().artifact
    assert not any("does not say" in note for note in make_app(fake(), Policy(("safe",)), options).state.notes)


def test_a_policy_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    class Full(FileStore):
        def write(self, policy: Policy) -> None:
            raise OSError(28, "No space left on device")

    app = make_app(fake(), Policy(("safe",)), Options(token=TOKEN, store=Full(tmp_path / "policy.json")))
    with running(app) as client:
        answer = client.put("/v1/policy", json={"ladder": ["balanced"]}, headers=BEARER)
        assert answer.status_code == 503
        assert "No space left" in answer.json()["detail"]
        assert client.get("/v1/points").json()["current"] == "safe"
        assert "rheostat_errors_total 1.0" in client.get("/metrics").text


@pytest.mark.parametrize("token", ["", " ", "short", "sixteen letters!", "ä" * 20, "a" * 20 + "\n"])
def test_a_weak_token_is_refused_at_the_start(token: str) -> None:
    """An empty token once opened the policy to everybody."""
    with pytest.raises(ValueError, match="at least 16"):
        make_app(fake(), Policy(("safe",)), Options(token=token))


def test_tokens_rotate(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# old\nold-token-0123456789\n\nnew-token-0123456789  # since May\n")
    tokens = Tokens(("fixed-token-0123456789",), path)
    for held in ("old-token-0123456789", "new-token-0123456789", "fixed-token-0123456789"):
        assert tokens.holds(held)
    for other in ("", "old-token-012345678", "# old", "\udcff"):
        assert not tokens.holds(other)
    path.write_text("new-token-0123456789\n")
    os.utime(path, (1, 1))
    assert not tokens.holds("old-token-0123456789")
    assert tokens.holds("new-token-0123456789")
    path.unlink()
    assert tokens.holds("new-token-0123456789")
    path.write_text("")
    with pytest.raises(ValueError, match="holds no token"):
        Tokens((), path)


def test_an_open_policy_is_for_this_machine_alone() -> None:
    """A page whose name resolves to 127.0.0.1 could else turn the dial through its visitor's browser."""
    with running(make_app(fake(), Policy(("safe",)), Options(open_policy=True, client_dial=True))) as client:
        policy = {"ladder": ["balanced"]}
        for host in ("127.0.0.1:8000", "localhost", "[::1]:9"):
            assert client.put("/v1/policy", json=policy, headers={"Host": host}).status_code == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[", ""):
            assert client.put("/v1/policy", json=policy, headers={"Host": host}).status_code == 403
        crossed = {"Host": "localhost", "Origin": "http://evil.example"}
        assert client.put("/v1/policy", json=policy, headers=crossed).status_code == 403
        asked = client.post("/v1/predict?point=fast", content=GOOD, headers={**NPY, "Host": "evil.example"})
        assert asked.status_code == 403
        asked = client.post("/v1/predict?point=fast", content=GOOD, headers={**NPY, "Host": "localhost"})
        assert asked.json()["point"] == "fast"


def test_tokens_for_predictions_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("predict-token-0123456789\n")
    app = make_app(fake(), Policy(("safe",)), Options(token=TOKEN, predict_token_file=path, private=True))
    with running(app) as client:
        mine = {"Authorization": "bearer predict-token-0123456789"}

        def asked(headers: dict[str, str]) -> list[int]:
            found: list[httpx.Response] = [
                client.post("/v1/predict", content=GOOD, headers={**NPY, **headers}),
                client.get("/v1/points", headers=headers),
                client.get("/metrics", headers=headers),
                client.put("/v1/policy", json={"ladder": ["safe"]}, headers=headers),
            ]
            return [a.status_code for a in found]

        assert asked({}) == [401] * 4
        assert asked({"Authorization": "Bearer "}) == [401] * 4
        assert asked(mine) == [200, 200, 200, 401]
        assert asked(BEARER) == [200] * 4
        assert client.get("/healthz").status_code == 200
    with pytest.raises(ValueError, match="private numbers need a token"):
        make_app(fake(), Policy(("safe",)), Options(private=True))
