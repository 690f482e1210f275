"""The report in a real browser: it sorts, filters and opens runs, with no console error and no request."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from results.report import write_report

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


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
