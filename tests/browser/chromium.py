"""A headless Chromium without a network, driven by selenium."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)  # fmt: skip


def find_programs() -> tuple[str | None, str | None]:
    """The paths of the browser and of its driver, None for what is not on this machine."""
    return shutil.which(os.environ.get("CHROMIUM", "chromium")), shutil.which(
        os.environ.get("CHROMEDRIVER", "chromedriver")
    )


def open_chromium(profile: Path) -> webdriver.Chrome:
    """A browser with a new profile in the folder `profile`, which keeps what is said on the console and asked for."""
    browser, driver = find_programs()
    assert browser and driver, "chromium or chromedriver is missing"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(executable_path=driver))


def set_scheme(driver: webdriver.Chrome, scheme: str) -> None:
    """Have the system prefer "light" or "dark"."""
    wanted = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})


def set_size(driver: webdriver.Chrome, width: int, height: int, scale: float = 1.0) -> None:
    """Give the page so many pixels of CSS, each `scale` pixels of the screen wide."""
    size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
