"""Debian's chromium, driven headless: what a page really does when it is opened."""

import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--window-size=1200,1000",
)  # fmt: skip
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and "TNA_REQUIRE_BROWSER" not in os.environ,
    reason="no chromium and chromedriver here; continuous integration installs both and requires them",
)


class Page:
    """An opened page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def run(self, script: str) -> object:
        """The value of a script's ``return``."""
        return self.driver.execute_script(script)

    def wait_for(self, script: str, seconds: float = 15) -> object:
        """The first truthy value of a script."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"still false after {seconds} s: {script}"
            time.sleep(0.1)
        return value

    def errors(self) -> list[str]:
        """Errors of the console so far."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def requests(self) -> list[str]:
        """Addresses asked for so far, the page itself and inline data left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        page = self.driver.current_url.partition("#")[0]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:")) and url != page]


@contextmanager
def opened(path: Path) -> Generator[Page]:
    """The page at ``path``, opened in a fresh browser."""
    options = webdriver.ChromeOptions()
    for flag in _FLAGS:
        options.add_argument(flag)
    options.binary_location = CHROMIUM or "chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER or "chromedriver"))
    try:
        driver.get(path.resolve().as_uri())
        yield Page(driver)
    finally:
        driver.quit()
