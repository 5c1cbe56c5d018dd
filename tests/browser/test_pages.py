"""The page of a result in a browser: it opens from the file system, plays, filters, searches and pins."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from made_runs import drop_details, make_run

from feynkac import History
from feynkac.results.pages.page import read_asset
from feynkac.results.pictures.lineage import forest
from feynkac.smc.diagnostics import Diagnostics
from feynkac.steering.chains import join_histories

pytestmark = pytest.mark.browser
MARGIN = {"left": 14, "top": 10, "right": 92, "bottom": 10}
"""Of view.js."""

READ = "".join(read_asset(f"{name}.js") for name in ("data", "tree")) + (
    "const result = readResult(JSON.parse(document.getElementById('data').textContent).results[0]);"
    "const tree = growTree(result, result.populations[0]);"
)
"""A script that reads the data of a page as the page does."""


def text(driver, selector: str) -> str:
    return driver.find_element("css selector", selector).text


def texts(driver, selector: str) -> list[str]:
    return [each.text for each in driver.find_elements("css selector", selector)]


def press(driver, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(driver).send_keys(*keys).perform()


def choose(driver, selector: str, label: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(driver.find_element("css selector", selector)).select_by_visible_text(label)


def wait_for(driver, script: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(driver, 10, poll_frequency=0.02).until(lambda d: d.execute_script(f"return {script}"))


def step_of(driver) -> int:
    return int(driver.execute_script("return document.body.dataset.step"))


def read_lanes(driver) -> list[int]:
    """The final row in each lane of the tree, from the top."""
    return driver.execute_script(
        f"{READ} const last = tree.steps - 1;"
        "return [...tree.slotAt.subarray(last * tree.widest)].map((node) => node - tree.first[last])"
    )


def find_end(driver, lane: int, n: int) -> tuple[int, int]:
    """Where the line in that of `n` lanes ends, at zoom 0, from the corner of the window."""
    box = driver.execute_script("return document.getElementById('tree').getBoundingClientRect().toJSON()")
    row = (box["height"] - MARGIN["top"] - MARGIN["bottom"]) / n
    return round(box["right"] - MARGIN["right"] - 4), round(box["top"] + MARGIN["top"] + (lane + 0.5) * row)


def point(driver, x: int, y: int, *, click: bool = False) -> None:
    from selenium.webdriver import ActionChains

    chain = ActionChains(driver)
    chain.w3c_actions.pointer_action.move_to_location(x, y)
    if click:
        chain.w3c_actions.pointer_action.click()
    chain.perform()


def read_pixels(driver, canvas: str) -> str:
    """What is drawn, once all is."""
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return driver.execute_script("return document.getElementById(arguments[0]).toDataURL()", canvas)


def gibbs():
    sweeps = [make_run(6, 8, seed) for seed in range(3)]
    history = join_histories([each.history for each in sweeps])
    pooled = [sample for each in sweeps[1:] for sample in each.samples]
    weights = np.concatenate([np.log(each.weights / 2) for each in sweeps[1:]])
    return make_run(12, 1, samples=pooled, log_weights=weights, history=history, algorithm="gibbs")


def died():
    made = make_run(5, 6)
    levels = [*made.history.levels[:-1], [-math.inf] * 5]
    return replace(
        made, log_weights=np.full(5, -np.inf), log_evidence=-math.inf, warnings=["every particle died"],
        history=replace(made.history, levels=levels, log_weights=[*made.history.log_weights[:-1], [-math.inf] * 5]),
    )  # fmt: skip


def images():
    samples = [np.full((3, 16, 16), i / 8) for i in range(8)]
    return drop_details(make_run(8, 10, samples=samples, prompt=None))


def no_history():
    made = make_run(4, 3)
    return replace(made, history=replace(drop_details(made).history, rows=[], levels=[]))


RUNS = {
    "texts": make_run,
    "an older version": lambda: drop_details(make_run()),
    "a stopped run": lambda: make_run(complete=False),
    "particle Gibbs": gibbs,
    "a run that died": died,
    "images": images,
    "numbers": lambda: make_run(6, samples=[float(i) for i in range(6)]),
    "points": lambda: make_run(6, samples=[np.array([i, -i]) for i in range(6)]),
    "one particle": lambda: make_run(1, 5),
    "one step": lambda: make_run(5, 1),
    "no history": no_history,
    "a chat": lambda: make_run(prompt=[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None}]),
}


@pytest.mark.parametrize("name", RUNS)
def test_every_kind_of_run_opens_and_can_be_used(show, name) -> None:
    made = RUNS[name]()
    driver = show(made)
    assert len(texts(driver, ".sample")) == len({str(sample) for sample in made.samples})
    for key in (" ", " ", "\ue012", "\ue014", "\ue013", "\ue015", "+", "-", "0", "\ue011", "\ue010", "\ue00c"):
        press(driver, key)
    driver.find_element("css selector", ".sample").click()
    driver.execute_script("window.scrollTo(0, 0)")
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")


def test_several_results_are_chosen_from_a_list(show) -> None:
    driver = show([make_run(), gibbs(), no_history()])
    labels = texts(driver, "#result option")
    assert [label[:2] for label in labels] == ["1.", "2.", "3."]
    for label in labels:
        choose(driver, "#result", label)
        assert text(driver, "#title") == label[3:]
    assert not driver.find_element("id", "run").is_displayed()


# --- what the script makes of the data --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def read_tree(driver) -> dict:
    """The tree as the page has it, its lanes a list for each step."""
    names = "place", "last", "heir", "parent", "first", "events"
    given = ", ".join(f"{name}: [...tree.{name}]" for name in names)
    return driver.execute_script(f"{READ} return {{{given}, mass: [...sumShares(tree, tree.steps - 1)]}}")


@pytest.mark.parametrize("seed", range(4))
def test_shares_and_ends_of_lines_are_those_of_the_family_tree(show, seed) -> None:
    made = make_run(9, 20, seed)
    found, truth = read_tree(show(made)), forest(made.history.rows, made.weights)
    paths, last = [truth.path(row) for row in range(9)], 9 * 19
    np.testing.assert_allclose(found["mass"], np.concatenate(truth.mass), atol=1e-12)
    assert found["events"] == truth.events
    for node, (t, slot) in enumerate((t, slot) for t in range(20) for slot in range(9)):
        below = [row for row in range(9) if paths[row][t] == slot]
        assert (found["last"][node] == 19) == bool(below)
        assert not below or found["heir"][node] - last == max(below, key=lambda row: made.weights[row])


@pytest.mark.parametrize(("seed", "islands"), [(0, 1), (1, 1), (2, 3), (3, 3)])
def test_what_lives_longest_stays_in_its_lane_and_islands_in_theirs(show, seed, islands) -> None:
    parts = Diagnostics([0.0] * islands, 0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 3)
    found = read_tree(show(make_run(9, 20, seed, islands=islands, diagnostics=parts)))
    places = np.array(found["place"]).reshape(20, 9)
    assert (np.sort(places, axis=1) == np.arange(9)).all()
    for node in range(9, 180):
        parent = found["parent"][node]
        if found["heir"][node] == found["heir"][parent]:
            assert found["place"][node] == found["place"][parent]
    assert (places * islands // 9 == np.arange(9) * islands // 9).all()


def test_a_population_that_grows_and_shrinks_has_lanes_for_all(show) -> None:
    rows = [[0], [0, 0, 0], [0, 2], [1, 1, 0, 1], [0, 2]]
    history = History([1.0] * 5, [0.0] * 5, [1] * 5, [], rows)
    found = read_tree(show(make_run(2, 1, history=history)))
    sizes = [len(each) for each in rows]
    for t, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        assert len(set(found["place"][start : start + sizes[t]])) == sizes[t] and max(found["place"]) < 4
    assert found["parent"] == [-1, 0, 0, 0, 1, 3, 5, 5, 4, 5, 6, 8]


def test_a_search_finds_the_texts_that_hold_it_on_the_way_too(show) -> None:
    made = make_run(9, 20)
    driver = show(made)
    sought = "night was"
    found = driver.execute_script(
        f"{READ}return [...searchTree(tree, arguments[0], () => false).found]",
        sought.upper(),
    )
    before: list[str] = []
    wanted: list[int] = []
    for rows, pieces in zip(made.history.rows, made.history.pieces, strict=True):
        before = [(before[row] if before else "") + piece for row, piece in zip(rows, pieces, strict=True)]
        wanted += [int(sought in each) for each in before]
    assert found == wanted and 0 < sum(wanted) < len(wanted)


# --- play -------------------------------------------------------------------------------------------------------------


def test_a_run_plays_to_its_end_and_pauses(show) -> None:
    driver = show(make_run(steps=30))
    press(driver, "0")
    assert step_of(driver) == 29 and text(driver, "#step-label") == "step 29 of 29"
    whole = read_pixels(driver, "base")
    press(driver, " ")
    wait_for(driver, "document.body.dataset.step > 2 && document.body.dataset.step < 20")
    assert driver.find_element("id", "play").get_dom_attribute("aria-pressed") == "true"
    press(driver, " ")
    stopped = step_of(driver)
    assert driver.find_element("id", "play").get_dom_attribute("aria-label") == "Play"
    assert read_pixels(driver, "base") != whole
    driver.find_element("id", "play").click()
    wait_for(driver, "document.body.dataset.step == 29")
    assert stopped < 29 and driver.find_element("id", "play").get_dom_attribute("aria-pressed") == "false"
    assert read_pixels(driver, "base") == whole


def test_steps_are_taken_by_keys_and_by_the_slider(show) -> None:
    driver = show(make_run())
    press(driver, "\ue012", "\ue012")  # left
    assert step_of(driver) == 9
    press(driver, "\ue011")  # home
    assert step_of(driver) == 0
    press(driver, "\ue014")  # right
    assert step_of(driver) == 1
    driver.execute_script(
        "const s = document.getElementById('step'); s.value = 5; s.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert step_of(driver) == 5


# --- pins and tooltips ------------------------------------------------------------------------------------------------


def test_the_likeliest_particle_is_pinned_at_first(show) -> None:
    made = make_run()
    driver = show(made)
    best = int(np.argmax(made.weights))
    assert text(driver, "#particle h2") == f"Particle {best}"
    assert driver.execute_script("return document.querySelector('#particle .text').textContent") == made.samples[best]
    assert len(driver.find_elements("css selector", ".sample.chosen")) == 1


def test_a_click_pins_a_line_and_shows_its_whole_text(show) -> None:
    made = make_run()
    driver = show(made)
    press(driver, "0")
    rows = read_lanes(driver)
    for lane in (0, 3, 7):
        row = rows[lane]
        point(driver, *find_end(driver, lane, 8), click=True)
        assert text(driver, "#particle h2") == f"Particle {row}"
        body = driver.execute_script("return document.querySelector('#particle .text').textContent")
        assert body == made.samples[row]
    press(driver, "\ue00c")  # escape
    assert "Click a line" in text(driver, "#particle")


def test_tokens_are_tinted_by_their_surprise(show) -> None:
    made = make_run()
    driver = show(made)
    best = int(np.argmax(made.weights))
    path = forest(made.history.rows, made.weights).path(best)
    nats = [-made.history.log_probs[t][slot] for t, slot in enumerate(path)]
    heats = [sum(each >= bound for bound in (1, 2, 4, 7)) for each in nats]
    tokens = driver.find_elements("css selector", "#particle .text .token")
    assert [each.get_dom_attribute("class") for each in tokens] == [f"token heat-{heat}" for heat in heats]
    assert f"{nats[0]:.2f} nats" in tokens[0].get_dom_attribute("title")


def test_the_pointer_shows_the_text_so_far(show) -> None:
    made = make_run()
    driver = show(made)
    press(driver, "0")
    row = read_lanes(driver)[2]
    point(driver, *find_end(driver, 2, 8))
    assert driver.execute_script("return document.querySelector('#tip .text').textContent") == made.samples[row]
    assert f"slot {row}" in text(driver, "#tip .facts") and "nats" in text(driver, "#tip .facts")
    point(driver, 2, 2)
    assert not driver.find_element("id", "tip").is_displayed()


def test_keys_go_from_particle_to_particle(show) -> None:
    made = make_run()
    driver = show(made)
    order = read_lanes(driver)
    press(driver, "\ue00c")
    seen = []
    for _ in range(8):
        press(driver, "\ue015")  # down
        seen.append(text(driver, "#particle h2"))
    assert seen == [f"Particle {row}" for row in order]
    press(driver, "\ue013")  # up
    assert text(driver, "#particle h2") == f"Particle {order[-2]}"


def test_a_text_that_a_move_wrote_anew_is_not_told_by_its_ancestors(show) -> None:
    made = make_run(4, 6)
    best = int(np.argmax(made.weights))
    slot = int(forest(made.history.rows, made.weights).path(best)[3])
    moved = [[slot] if t == 3 else [] for t in range(6)]
    samples = [f"text {i}" for i in range(4)]
    driver = show(replace(made, samples=samples, history=replace(made.history, moved=moved)))
    assert text(driver, "#particle .text") == samples[best]
    assert "wrote the text anew" in text(driver, "#particle .hint")


def test_the_tokens_of_a_sample_that_a_move_wrote_are_its_own(show) -> None:
    made = make_run(4, 6)
    moved = [[], [], [], [0, 1, 2, 3], [], []]
    tokens = [[("whole", -0.5), (f" text {i}", -5.0), ("", -1.0)] for i in range(4)]
    samples = [f"whole text {i}" for i in range(4)]
    log_probs = np.full(4, -6.5)
    history = replace(made.history, moved=moved)
    driver = show(replace(made, samples=samples, history=history, token_log_probs=tokens, log_probs=log_probs))
    found = driver.find_elements("css selector", "#particle .text:not(.steps) .token")
    assert [each.get_dom_attribute("class") for each in found] == ["token heat-0", "token heat-3"]
    assert "−6.50 nats" in text(driver, "#particle .details")
    assert not driver.find_elements("css selector", "#particle .hint")


def test_what_the_steps_added_stands_below_what_a_program_returned(show) -> None:
    made = make_run(4, 6, samples=[("answer", i) for i in range(4)])
    driver = show(made)
    best = int(np.argmax(made.weights))
    assert text(driver, "#particle .text") == f"('answer', {best})"
    path = forest(made.history.rows, made.weights).path(best)
    added = "".join(made.history.pieces[t][slot] for t, slot in enumerate(path))
    assert driver.execute_script("return document.querySelector('#particle .steps').textContent") == added


def test_the_potential_that_rejected_a_particle_is_named(show) -> None:
    made = make_run(4, 6, log_weights=np.array([-1.0, -2.0, -np.inf, -3.0]))
    killers = [[""] * 4] * 5 + [["", "", "regex 'x'", ""]]
    driver = show(replace(made, history=replace(made.history, killers=killers)))
    press(driver, "0")
    lane = read_lanes(driver).index(2)
    point(driver, *find_end(driver, lane, 4), click=True)
    assert "regex 'x'" in text(driver, "#particle .details") and "rejected by regex 'x'" in text(driver, "#tip")
    assert text(driver, "#particle .weight") == "dead"


def test_what_a_stop_string_cut_off_is_not_shown(show) -> None:
    made = make_run()
    driver = show(replace(made, samples=[sample[:-3] for sample in made.samples]))
    best = int(np.argmax(made.weights))
    body = driver.execute_script("return document.querySelector('#particle .text').textContent")
    assert body == made.samples[best][:-3] and driver.find_elements("css selector", "#particle .token")


# --- filters and search -----------------------------------------------------------------------------------------------


def test_filters_leave_what_they_say(show) -> None:
    log_weights = np.log(np.array([0.4, 0.3, 0.2, 0.06, 0.04, 1e-300, 1e-300, 1e-300]))
    log_weights[5:] = -np.inf
    made = make_run(8, 12, log_weights=log_weights, samples=[f"text {i}" for i in range(8)])
    driver = show(made)
    assert text(driver, "#found") == "" and len(texts(driver, ".sample")) == 8
    whole = read_pixels(driver, "base")
    for label, left in (("alive", 5), ("dead", 3), ("done", 5)):
        choose(driver, "#show", label)
        assert text(driver, "#found") == f"{left} of 8 particles" and len(texts(driver, ".sample")) == left
    choose(driver, "#show", "all particles")
    driver.find_element("id", "least").send_keys("5")
    assert text(driver, "#found") == "4 of 8 particles"
    assert read_pixels(driver, "base") != whole
    driver.find_element("id", "least").clear()
    driver.find_element("id", "least").send_keys("0")
    assert text(driver, "#found") == ""


def test_islands_can_be_seen_one_by_one(show) -> None:
    found = Diagnostics([0.0, 0.1], 0.1, 0.1, 0.1, 0.1, 0.2, 0.6, 3)
    made = make_run(8, 12, islands=2, diagnostics=found, samples=[f"text {i}" for i in range(8)])
    driver = show(made)
    assert texts(driver, "#island option") == ["all islands", "island 1", "island 2"]
    choose(driver, "#island", "island 2")
    assert sorted(texts(driver, ".sample .words")) == [f"text {i}" for i in range(4, 8)]


def test_a_search_leaves_the_texts_that_hold_it(show) -> None:
    made = make_run(16, 10)
    driver = show(made)
    press(driver, "/")
    whole = read_pixels(driver, "base")
    driver.switch_to.active_element.send_keys("DARK")
    holding = {sample for sample in made.samples if "dark" in sample}
    count = sum("dark" in sample for sample in made.samples)
    assert 0 < count < 16 and text(driver, "#found") == f"{count} of 16 particles"
    assert (
        set(driver.execute_script("return [...document.querySelectorAll('.words')].map((w) => w.textContent)"))
        == holding
    )
    assert {mark.lower() for mark in texts(driver, "mark")} == {"dark"}
    assert read_pixels(driver, "base") != whole
    driver.switch_to.active_element.send_keys("\ue00c")
    assert text(driver, "#found") == "" and len(texts(driver, ".sample")) == len(set(made.samples))


# --- samples ----------------------------------------------------------------------------------------------------------


def test_samples_stand_by_weight_and_equal_ones_together(show) -> None:
    made = make_run(6, samples=["a", "b", "a", "c", "b", "a"])
    driver = show(made)
    posterior = made.posterior()
    assert texts(driver, ".words") == list(posterior)
    shares = [float(each.removesuffix(" %")) / 100 for each in texts(driver, ".share")]
    np.testing.assert_allclose(shares, list(posterior.values()), atol=0.006)
    assert {"×3", "×2"} <= set(texts(driver, ".count"))


def test_many_samples_come_in_parts(show) -> None:
    driver = show(make_run(130, 2, samples=[f"text {i}" for i in range(130)]))
    assert len(texts(driver, ".sample")) == 50
    driver.find_element("id", "more").click()
    driver.find_element("id", "more").click()
    assert len(texts(driver, ".sample")) == 130 and not driver.find_element("id", "more").is_displayed()


def test_images_are_tiles_and_are_drawn(show) -> None:
    driver = show(images())
    wait_for(driver, "[...document.querySelectorAll('.tiles img')].every((i) => i.naturalWidth === 16)")
    assert len(driver.find_elements("css selector", ".tiles img")) == 8
    assert driver.find_element("css selector", "#particle img").is_displayed()


def test_a_sample_of_another_sweep_is_pinned_in_its_own_tree(show) -> None:
    made = gibbs()
    driver = show(made)
    assert texts(driver, "#population option") == [f"sweep {k} of 3" for k in (1, 2, 3)]
    row = int(np.argmax(made.weights[6:])) + 6
    for item in driver.find_elements("css selector", ".sample"):
        if item.find_element("class name", "words").get_property("textContent") == made.samples[row]:
            item.click()
            break
    assert driver.execute_script("return document.getElementById('population').value") == "2"
    assert text(driver, "#particle h2") == f"Particle {row - 6}"


# --- looks ------------------------------------------------------------------------------------------------------------


def test_the_scheme_is_the_systems_until_one_chooses(show, browser) -> None:
    from chromium import set_scheme

    paper = "return getComputedStyle(document.body).backgroundColor"
    driver = show(make_run())
    light, drawn = driver.execute_script(paper), read_pixels(driver, "base")
    set_scheme(browser, "dark")
    wait_for(driver, "document.documentElement.dataset.scheme === 'dark'")
    dark = driver.execute_script(paper)
    assert dark != light and read_pixels(driver, "base") != drawn
    driver.find_element("id", "scheme").click()
    assert driver.execute_script(paper) == light


@pytest.mark.parametrize("width", [1200, 800, 480])
def test_the_page_fits_the_window(show, browser, width) -> None:
    from chromium import set_size

    set_size(browser, width, 900)
    driver = show(make_run(16, 40))
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
