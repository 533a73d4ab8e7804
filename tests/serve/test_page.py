"""The page in Chromium: draw, watch, ask, show an image, and an error that one can read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.serve.conftest import Server, serving

pytestmark = pytest.mark.skipif(
    shutil.which("chromium") is None or shutil.which("chromedriver") is None,
    reason="chromium and chromedriver are missing; CONTRIBUTING.md names the packages",
)
PHONE, DESK = (375, 800), (1100, 900)


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    found = webdriver.Chrome(options=options, service=service)
    yield found
    found.quit()


def opened(browser: webdriver.Chrome, url: str, size: tuple[int, int] = DESK) -> None:
    browser.set_window_size(*size)
    browser.get(url)
    until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#model option"))


def until(browser: webdriver.Chrome, holds) -> None:
    WebDriverWait(browser, 60, poll_frequency=0.02).until(lambda _: holds())


def of(browser: webdriver.Chrome, name: str):
    return browser.find_element(By.ID, name)


def write(browser: webdriver.Chrome, name: str, text: str) -> None:
    of(browser, name).clear()
    of(browser, name).send_keys(text)


def test_draw_watch_and_ask(browser: webdriver.Chrome, server: Server, tmp_path: Path) -> None:
    opened(browser, server.url)
    browser.execute_script(
        "window.seen = []; new MutationObserver(() => window.seen.push(document.getElementById("
        "'shown').dataset.previews)).observe(document.getElementById('shown'), "
        "{attributes: true, attributeFilter: ['data-previews']});"
    )
    write(browser, "prompt", "a red circle")
    write(browser, "seed", "7")
    of(browser, "prompt").send_keys("\n")  # Enter draws
    until(browser, lambda: "seed 7" in of(browser, "about").text)
    assert len(set(browser.execute_script("return window.seen"))) >= 3
    assert of(browser, "shown").get_attribute("alt") == "a red circle"
    assert of(browser, "save").get_attribute("href").startswith("data:image/png")
    write(browser, "question", "what colour is the circle?")
    of(browser, "send").click()
    until(browser, lambda: of(browser, "send").is_enabled())
    lines = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#talk li")]
    assert lines == ["what colour is the circle?", "red"]
    write(browser, "question", "how many circles are there?")
    of(browser, "send").click()
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#talk li")) == 4)
    until(browser, lambda: of(browser, "send").is_enabled())
    assert len(browser.find_elements(By.CSS_SELECTOR, "#gallery button")) == 1
    assert browser.get_log("browser") == []


def test_a_file_is_shown_and_asked_about(
    browser: webdriver.Chrome, server: Server, tmp_path: Path
) -> None:
    opened(browser, server.url)
    path = Path(__file__).parents[2] / "docs/sheet.png"
    of(browser, "file").send_keys(str(path))
    until(browser, lambda: of(browser, "about").text == "sheet.png")
    write(browser, "question", "is there a star?")
    of(browser, "question").send_keys("\n")
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#talk li")) == 2)
    until(browser, lambda: of(browser, "send").is_enabled())
    assert not of(browser, "error").is_displayed()


def test_errors_are_shown(browser: webdriver.Chrome) -> None:
    with serving("--model", "tiny-janus") as server:
        opened(browser, server.url)
        write(browser, "prompt", "x " * 400)
        of(browser, "go").click()
        until(browser, lambda: "tokens long" in of(browser, "error").text)
        server.process.kill()
        server.process.wait()
        write(browser, "prompt", "a star")
        of(browser, "go").click()
        until(browser, lambda: "does not answer" in of(browser, "error").text)
    assert of(browser, "go").is_enabled()


def test_stop(browser: webdriver.Chrome, server: Server) -> None:
    opened(browser, server.url)
    of(browser, "stop")
    write(browser, "prompt", "a star")
    of(browser, "go").click()
    until(browser, lambda: of(browser, "stop").is_enabled())
    of(browser, "stop").click()
    until(browser, lambda: of(browser, "go").is_enabled())
    assert of(browser, "about").text == "Stopped."


def test_what_was_there_comes_back(browser: webdriver.Chrome, server: Server) -> None:
    """After a drawing that was stopped, or refused: a question is about the image that is shown."""
    opened(browser, server.url)
    write(browser, "prompt", "a red circle")
    write(browser, "seed", "7")
    of(browser, "go").click()
    until(browser, lambda: "seed 7" in of(browser, "about").text)
    before = of(browser, "shown").get_attribute("src"), of(browser, "about").text
    for prompt, seed in (("a blue star", "1"), ("x " * 400, "1"), ("a star", "1.5")):
        write(browser, "prompt", prompt)
        write(browser, "seed", seed)
        browser.execute_script("document.getElementById('draw').noValidate = true")
        of(browser, "go").click()
        if prompt == "a blue star":
            until(browser, lambda: of(browser, "stop").is_enabled())
            of(browser, "stop").click()
        until(browser, lambda: of(browser, "go").is_enabled())
        now = of(browser, "shown").get_attribute("src"), of(browser, "about").text
        assert now == before and of(browser, "save").is_displayed()
        assert of(browser, "error").is_displayed() == (prompt != "a blue star")


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_nothing_is_cut(browser: webdriver.Chrome, server: Server, size: tuple[int, int]) -> None:
    """No control sticks out at the side, and each has a name for screen readers."""
    opened(browser, server.url, size)
    wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
    assert wide <= 0
    for each in browser.find_elements(By.CSS_SELECTOR, "input, select, textarea, button, img"):
        assert each.accessible_name, each.get_attribute("outerHTML")


def test_a_token_is_asked_for(browser: webdriver.Chrome) -> None:
    with serving("--model", "tiny-janus", JANUS_EDGE_TOKEN="sesame") as server:
        browser.get(server.url)
        until(browser, lambda: _answered(browser, "sesame"))
        until(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#model option"))


def _answered(browser: webdriver.Chrome, text: str) -> bool:
    try:
        alert = browser.switch_to.alert
    except Exception:
        return False
    alert.send_keys(text)
    alert.accept()
    return True
