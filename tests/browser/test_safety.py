"""Whatever a model writes is text on the page: nothing of it runs, is fetched, or turns what stands around it."""

from __future__ import annotations

import pytest
from made_runs import make_run

pytestmark = pytest.mark.browser
ACTS = "window.owned = true; document.title = 'owned'; alert(1)"
EVIL = [
    f"</script><script>{ACTS}</script>",
    f"<!--<script>{ACTS}</script>-->",
    f'<img src=x onerror="{ACTS}">',
    f'<svg onload="{ACTS}"></svg>',
    f'<iframe srcdoc="<script>{ACTS}</script>"></iframe>',
    f"javascript:{ACTS}",
    "<style>body { display: none }</style>",
    "<meta http-equiv=refresh content='0;url=https://example.org'>",
    "<link rel=stylesheet href=https://example.org/x.css>",
    "\x1b[2J\x1b]0;title\x07 \x00 \ud800 \u202e\u2066\u2028",
]


def test_nothing_that_a_model_writes_runs(show) -> None:
    chat = [{"role": evil, "content": evil} for evil in EVIL]
    made = make_run(words=EVIL, prompt=chat, warnings=list(EVIL))
    driver = show(made)
    for item in driver.find_elements("css selector", ".sample"):
        item.click()
    driver.find_element("id", "search").send_keys("<script>")
    assert driver.execute_script("return window.owned") is None and not driver.title.startswith("owned")
    names = "script, style, img, svg, iframe, meta, link"
    harmless = driver.execute_script(f"return [...document.querySelectorAll('{names}')].map((e) => e.tagName)")
    plain = show(make_run())
    assert plain.execute_script(f"return [...document.querySelectorAll('{names}')].map((e) => e.tagName)") == harmless


def test_what_a_terminal_would_obey_is_shown_escaped(show) -> None:
    driver = show(make_run(words=EVIL[-1:]))
    body = driver.execute_script("return document.querySelector('#particle .text').textContent")
    assert "\\x1b[2J\\x1b]0;title\\x07 \\x00 \\ud800 \\u202e\\u2066\\u2028" in body


def test_a_script_that_got_in_would_not_run_and_nothing_could_be_fetched(show, browser) -> None:
    driver = show(make_run())
    driver.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.owned = true'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.owned = true\">');"
        "document.body.insertAdjacentHTML('beforeend', '<style>body { opacity: 0.5 }</style>');"
    )
    fetched = driver.execute_async_script(
        "fetch('https://example.org/').then(() => arguments[0]('fetched'), () => arguments[0]('refused'))"
    )
    assert fetched == "refused" and driver.execute_script("return window.owned") is None
    assert driver.execute_script("return getComputedStyle(document.body).opacity") == "1"
    refused = [entry["message"] for entry in driver.get_log("browser")]
    assert len(refused) >= 4 and all("Content Security Policy" in each for each in refused)
