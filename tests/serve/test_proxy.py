"""The documented reverse proxies: their files are taken by the proxies themselves."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "proxy"


def test_policy_stays_behind_the_proxy() -> None:
    """Both let predictions and health through, and nothing else; both write the client's address anew."""
    nginx, caddy = (EXAMPLES / "nginx.conf").read_text(), (EXAMPLES / "Caddyfile").read_text()
    assert set(re.findall(r"location = (\S+)", nginx)) == {"/v1/predict", "/healthz"}
    assert "location / { return 404; }" in nginx
    assert "X-Forwarded-For $remote_addr;" in nginx
    assert "@open path /v1/predict /healthz\n" in caddy
    assert "header_up X-Forwarded-For {remote_host}" in caddy


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_nginx_takes_its_file(tmp_path: Path) -> None:
    certificate, key = tmp_path / "a.pem", tmp_path / "a.key"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=rheostat.example", "-days", "1"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    text = (EXAMPLES / "nginx.conf").read_text()
    text = text.replace("/etc/ssl/certs/rheostat.pem", str(certificate))
    text = f"pid {tmp_path}/pid;\n" + text.replace("/etc/ssl/private/rheostat.key", str(key))
    (tmp_path / "nginx.conf").write_text(text)
    found = subprocess.run(["nginx", "-t", "-c", str(tmp_path / "nginx.conf")], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.skipif(shutil.which("caddy") is None, reason="needs caddy")
def test_caddy_takes_its_file() -> None:
    command = ["caddy", "validate", "--adapter", "caddyfile", "--config", str(EXAMPLES / "Caddyfile")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
