"""A browser for all tests of this folder, and pages opened from the file system, on which nothing may go wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import feynkac as fk

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "results" / "pages"):
    sys.path.insert(0, str(folder))

if TYPE_CHECKING:
    from selenium.webdriver import Chrome


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    pytest.importorskip("selenium", reason="pip install 'feynkac[browser]'")
    from chromium import find_programs, open_chromium

    if None in find_programs():
        pytest.skip("no Chromium: `make test-browser` says what to install")
    driver = open_chromium(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def show(browser: Chrome, tmp_path: Path) -> Iterator[Callable[..., Chrome]]:
    """Opens the page of a result, or of several; at the end of the test nothing was complained of or asked for."""
    from chromium import set_scheme, set_size

    opened: list[str] = []

    def open_page(results: fk.Result | Sequence[fk.Result], **how: Any) -> Chrome:
        listed = [results] if isinstance(results, fk.Result) else results
        path = tmp_path / f"page{len(opened)}.html"
        fk.write_page(listed, path, **how)
        opened.append(path.as_uri())
        browser.get(opened[-1])
        assert browser.find_element("tag name", "body").get_dom_attribute("data-ready") == "true"
        return browser

    set_scheme(browser, "light")
    set_size(browser, 1200, 1000)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield open_page
    assert browser.get_log("browser") == []
    assert [url for url in list_requests(browser) if not url.startswith("data:") and url not in opened] == []


def list_requests(driver: Chrome) -> list[str]:
    """All that pages asked for since the last call, but for what their own policy refused."""
    told = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    refused = {
        each["params"]["requestId"]
        for each in told
        if each["method"] == "Network.loadingFailed" and each["params"].get("blockedReason") == "csp"
    }
    sent = [each["params"] for each in told if each["method"] == "Network.requestWillBeSent"]
    return [each["request"]["url"] for each in sent if each["requestId"] not in refused]
