"""The playground in a real browser: slide, and see the numbers move."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from fakes import MEASURED
from test_serve import environment

from rheostat.models import artifact
from rheostat.points.point import Point

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium and chromedriver"),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("playground") / "digits"
    folder.mkdir()
    file = folder / "model.safetensors"
    shutil.copy(artifact.packaged()["oat-digits"], file)
    artifact.name_point(file, "safe", Point(robustness=1.0), MEASURED["safe"])
    from rheostat.cli.app import main

    main(["evaluate", str(folder), "--at", "robustness=0,0.5,1", "--examples", "50", "--threads", "1"])
    torch.set_num_threads(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "rheostat",
        "serve",
        str(folder),
        "--port",
        str(port),
        "--playground",
        "--backend",
        "torch",
        "--threads",
        "1",
    ]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(900):
            try:
                if httpx.get(f"{url}/playground/", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def test_slide_and_see_the_numbers_move(page: str, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1400"):
        options.add_argument(argument)
    service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
    browser = webdriver.Chrome(options=options, service=service)
    try:
        browser.get(f"{page}/playground/")
        wait = WebDriverWait(browser, 90)

        def text(name: str) -> str:
            return browser.find_element(By.ID, name).text

        wait.until(lambda b: b.find_elements(By.ID, "cost") and "M MACs" in text("cost"))
        wait.until(lambda b: text("fooled"))
        first = (text("cost"), text("fooled"))
        assert "robustness=" in first[0]
        box = browser.find_element(By.CSS_SELECTOR, "#dial-robustness input[type=number]")
        box.send_keys(Keys.CONTROL, "a")
        value = "0" if "robustness=1" in first[0] else "1"
        box.send_keys(value, Keys.TAB)
        wait.until(lambda b: f"robustness={value}" in text("cost"))
        wait.until(lambda b: text("fooled") != first[1])
        browser.save_screenshot(str(tmp_path / "playground.png"))
        assert (tmp_path / "playground.png").stat().st_size > 20000
    finally:
        browser.quit()
    # The service beside it still refuses a client's point.
    assert httpx.post(f"{page}/v1/predict?point=safe", content=b"x").status_code == 403
