"""The report in a real browser: it sorts, filters and opens runs, with no console error and no request."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path

import pytest

from results.report.page import write_report
from results.store import store
from results.tables import named

pytestmark = pytest.mark.browser


def visible(browser) -> list[str]:
    rows = "[...document.querySelectorAll('#runs-table tbody tr')]"
    return browser.execute_script(f"return {rows}.filter(row => !row.hidden).map(row => row.cells[0].innerText)")


def test_the_page_works_and_keeps_to_itself(browser, campaign: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.select import Select

    page = tmp_path / "report.html"
    write_report([campaign], page)
    browser.get(page.as_uri())
    assert len(visible(browser)) == 20
    assert "62.40 ± 0.40" in browser.find_element(By.ID, "tables").text

    value = browser.find_element(By.XPATH, "//table[@id='runs-table']//button[text()='Value']")
    value.send_keys(Keys.ENTER)
    assert value.find_element(By.XPATH, "..").get_attribute("aria-sort") == "ascending"
    assert visible(browser)[0] == "knn-moco-cifar10-dino-p0-s0"
    value.click()
    assert visible(browser)[0] == "linear-fast_moco-cifar10-sweep-p2-s1"
    assert visible(browser)[-1].startswith(("knn-random", "linear-random"))

    Select(browser.find_element(By.CSS_SELECTOR, "[data-filter=task]")).select_by_visible_text("knn")
    assert len(visible(browser)) == 7
    browser.find_element(By.ID, "filter-text").send_keys("MOCO p1")
    assert sorted(visible(browser)) == ["knn-fast_moco-cifar10-dino-p1-s0", "knn-moco-cifar10-dino-p1-s0"]
    assert browser.find_element(By.ID, "runs-count").text == "2 of 20 runs"

    browser.find_element(By.CSS_SELECTOR, "#runs-table tr:not([hidden]) button.open").click()
    dialog = browser.find_element(By.ID, "run")
    assert "fastmoco evaluate knn" in dialog.text
    assert "weights SHA-256" in dialog.text
    dialog.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert "step 12 loss nan" in browser.find_element(By.ID, "failures").text

    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith(("file:", "data:", "chrome:"))] == []
    if shots := os.environ.get("FASTMOCO_SCREENSHOTS"):
        take_screenshots(browser, page, Path(shots))


def test_a_screen_reader_and_a_keyboard_are_enough(browser, full_campaign: Path, tmp_path: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page = tmp_path / "report.html"
    write_report([full_campaign], page)
    browser.get(page.as_uri())
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    told = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    named = {"table", "button", "searchbox", "combobox", "link", "image", "img", "region", "navigation", "search"}
    assert [role for role, name in told if role in named and not name.strip()] == []
    names = {name for role, name in told if role in ("image", "img")}
    for start in ("Every task.", "Accuracy against cost.", "Learning curves.", "Accuracy against epochs.", "Grid and"):
        assert any(name.startswith(start) for name in names), start
    assert any(name.startswith("Predictions of detection-fast_moco") for name in names)

    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    levels = browser.execute_script(
        "return [...document.querySelectorAll('main :is(h1,h2,h3)')].map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    tables = browser.find_elements(By.TAG_NAME, "table")
    assert len(tables) >= 6
    unscoped = "return [...document.querySelectorAll('th')].filter(th => !th.scope).length"
    assert browser.execute_script(unscoped) == 0
    assert browser.execute_script("return [...document.querySelectorAll('table')].every(t => t.caption)")

    # By keyboard alone: the first Tab leads past the navigation, a run opens, closes and gives the focus back.
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the results"
    run = browser.find_element(By.CSS_SELECTOR, "#runs-table button.open")
    run.send_keys(Keys.ENTER)
    assert browser.find_element(By.ID, "run").is_displayed()
    assert browser.switch_to.active_element.text == "Close"
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert browser.switch_to.active_element == run
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    assert browser.execute_script(outline) == "solid"
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_cut_off_and_all_text_has_contrast(
    scheme: str, width: int, browser, full_campaign: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    write_report([full_campaign], page)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for text, colour, paper in browser.execute_script(TEXTS):
        assert contrast(colour, paper) >= 4.5, (text, colour, paper)


def test_each_table_s_own_page_fits_a_phone_and_keeps_to_itself(browser, full_campaign: Path, tmp_path: Path) -> None:
    found = store.load([full_campaign])
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for name in named.definitions():
        page = tmp_path / "table.html"
        page.write_text(named.render(name, found, format="html"), encoding="utf-8")
        browser.get(page.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, name
        cells = "return document.querySelectorAll('tbody tr').length"
        assert browser.execute_script(cells) == len(named.table(name, found).rows)
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith(("file:", "data:", "chrome:"))] == []


# Every element that holds text of its own: the text, its colour and that of the nearest ground that is not transparent.
TEXTS = """
const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
  if (!c.startsWith('rgba(0, 0, 0, 0')) return c; } return 'rgb(255, 255, 255)'; };
return [...document.body.querySelectorAll('*')].filter((e) => e.offsetParent &&
  [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
  .map((e) => [e.textContent.trim().slice(0, 40), getComputedStyle(e).color, ground(e)]);
"""


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.1 between two colours as a browser writes them."""

    def luminance(colour: str) -> float:
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def take_screenshots(browser, page: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        for name, width in (("desktop", 1280), ("phone", 390)):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.as_uri())
            height = browser.execute_script("return document.documentElement.scrollHeight")
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**size, "height": min(height, 4000)})
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            browser.save_screenshot(str(folder / f"{scheme}-{name}.png"))
