"""A real browser without a screen, and a page that is served by a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def driver(width: int = 1500, height: int = 1000, dark: bool = False) -> Any:
    """A headless Chromium; the test is skipped where there is none."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    if CHROMIUM is None or shutil.which("chromedriver") is None:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_argument(f"--window-size={width},{height}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = selenium.Chrome(options, selenium.ChromeService(shutil.which("chromedriver")))
    screen(found, width, height)
    if dark:
        found.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
        )
    return found


def screen(browser: Any, width: int, height: int) -> None:
    """Sets the size of what is seen, which a window has a least one of."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def _heeding() -> None:
    """Signals do what they do in a terminal, though the tests may run where they are ignored (nohup)."""
    for sent in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(sent, signal.SIG_DFL)


@contextmanager
def served(run: str | Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``pyro-vae explore`` of a folder, and the address that it printed."""
    command = [sys.executable, "-m", "pyro_vae", "explore", str(run), "--browser", "False", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
        start_new_session=True,
        preexec_fn=_heeding,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.match(r"http://127\.0\.0\.1:\d+/\?token=", line), line
        yield process, line.strip()
    finally:
        process.kill()
        process.communicate()


def told(milliseconds: list[float]) -> str:
    """Median and 95th percentile, in a line."""
    found = sorted(milliseconds)
    median, late = found[len(found) // 2], found[int(0.95 * len(found))]
    return f"from drag to picture: median {median:.1f} ms, 95th percentile {late:.1f} ms, of {len(found)}"


def wait(browser: Any, script: str, seconds: float = 30) -> Any:
    """The value of an expression, once it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, 0.02).until(lambda b: b.execute_script(f"return {script}"))
