"""The site builds without a warning, no link or anchor is broken, and a browser shows it well on any screen."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest
import yaml


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return out


class Page(HTMLParser):
    """The ids of a page, what it links to, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {value for name, value in attrs if name in ("id", "name") and value}
        if tag == "a" and values.get("href"):
            self.links.append(str(values["href"]))
        if tag in ("script", "img", "source", "iframe") and values.get("src"):
            self.loads.append(str(values["src"]))
        if tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(str(values["href"]))


def test_no_link_or_anchor_is_broken_and_nothing_comes_from_the_network(site: Path) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 20
    broken = []
    for path, page in pages.items():
        for link in [*page.links, *page.loads]:
            if re.match(r"(https?|mailto|data):", link):
                if link in page.loads and not link.startswith("data:"):
                    broken.append(f"{path.name} loads {link}")
                continue
            file, _, anchor = link.partition("#")
            target = (path.parent / unquote(file)).resolve() if file else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                broken.append(f"{path.name}: {link}")
    assert not broken


def test_links_of_the_files_beside_the_site_lead_somewhere(repository: Path) -> None:
    for name in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\(([^)#]+)", (repository / name).read_text(encoding="utf-8")):
            assert link.startswith("http") or (repository / link).is_file(), f"{name}: {link}"


def test_every_page_is_in_the_menu(repository: Path) -> None:
    def leaves(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        children = entry.values() if isinstance(entry, dict) else entry
        return [leaf for child in children for leaf in leaves(child)]

    menu = leaves(yaml.safe_load((repository / "mkdocs.yml").read_text())["nav"])
    docs = repository / "docs"
    assert sorted(menu) == sorted(page.relative_to(docs).as_posix() for page in docs.rglob("*.md"))


def test_the_pictures_are_fresh(pictures: ModuleType) -> None:
    for name, draw in pictures.PICTURES.items():
        words, numbers = apart(draw())
        shown_words, shown_numbers = apart((pictures.FOLDER / name).read_text(encoding="utf-8"))
        assert words == shown_words, f"{name}: python docs/generate.py"
        assert numbers == pytest.approx(shown_numbers, abs=0.01), f"{name}: python docs/generate.py"


def apart(svg: str) -> tuple[list[str], list[float]]:
    """What an SVG says and where: other processors may round its last digits, and the names made of them, otherwise."""
    named = re.sub(r"\b[a-z][0-9a-f]{10}\b", "name", svg)
    number = re.compile(r"-?\d+\.\d+")
    return number.split(named), [float(found) for found in number.findall(named)]


@pytest.mark.browser
@pytest.mark.long
def test_pages_fit_a_desktop_and_a_phone_in_light_and_dark(site: Path, browser) -> None:
    pages = sorted(path for path in site.rglob("*.html") if path.name != "404.html")
    grounds = {}
    for name, width in (("desktop", 1280), ("phone", 390)):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for page in pages:
            browser.get(page.as_uri())
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{page.name} is {wide} px wide on a {name}"
    for scheme in ("light", "dark"):
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get((site / "method.html").as_uri())
        grounds[scheme] = browser.execute_script(
            "return [document.body, document.querySelector('svg.drawing text')]"
            ".map((one, i) => getComputedStyle(one)[i ? 'fill' : 'backgroundColor'])"
        )
    assert grounds["light"] == ["rgb(255, 255, 255)", "rgb(25, 28, 32)"]
    assert grounds["dark"][0] != "rgb(255, 255, 255)"
    assert grounds["dark"][1] == "rgb(230, 232, 236)"
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith(("file:", "data:", "chrome:", "about:"))] == []


@pytest.mark.browser
def test_the_search_finds_a_page_without_a_server(site: Path, browser) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get((site / "index.html").as_uri())
    box = WebDriverWait(browser, 20).until(lambda page: page.find_element(By.CSS_SELECTOR, ".md-search__input"))
    browser.execute_script("document.querySelector('label[for=__search]').click()")
    WebDriverWait(browser, 20).until(lambda _: box.is_displayed())
    box.send_keys("accumulation")
    results = WebDriverWait(browser, 20).until(
        lambda page: page.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
    )
    assert any("method.html" in str(link.get_attribute("href")) for link in results)
