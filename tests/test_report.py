"""The report, opened in a real browser that can reach nothing but the file."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import ROOT, snakemake
from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
FIGURES = ("figure1", "figure2", "figure3", "figure4", "prototypes", "manifold")

MOVING = (
    NoSuchElementException,
    ElementClickInterceptedException,
    StaleElementReferenceException,
)

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER) and not os.environ.get("CI"),
    reason="chromium and chromedriver are not installed",
)


@pytest.fixture(scope="module")
def page(study, tmp_path_factory) -> WebDriver:
    """The report of the smoke study, moved away from its results, open in the browser."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = snakemake(study, "--report", path)
    assert run.returncode == 0, run.stderr[-3000:]
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,1000")  # a narrow window folds the menu away
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.get(path.as_uri())
    yield browser
    browser.quit()


def text(page: WebDriver) -> str:
    return " ".join(page.find_element(By.TAG_NAME, "body").text.split())


def still(page: WebDriver, by: str, what: str) -> WebElement | None:
    """What is found so, once it no longer moves: a click on its way would hit its neighbour."""
    found = page.find_element(by, what)
    before = found.rect
    time.sleep(0.2)
    return found if found.rect == before else None


def click(page: WebDriver, *ways: tuple[str, str]) -> None:
    for by, what in ways:
        waiting = WebDriverWait(page, 10, ignored_exceptions=MOVING)
        waiting.until(lambda p, by=by, what=what: (at := still(p, by, what)) and not at.click())


def opened(page: WebDriver, category: str, name: str, icon: str) -> None:
    """Open a report item by the icon in its row."""
    page.refresh()
    row = f"//tr[td[text()='{name}']]//a[@iconname='{icon}']"
    click(page, (By.LINK_TEXT, category), (By.XPATH, row))


def words(rst: Path) -> list[str]:
    """The plain words of a caption, up to its first markup or template."""
    plain = re.split(r"[{`\\|]", rst.read_text().replace("*", ""))[0]
    return plain.split()[:20]


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_drawn(page, figure):
    opened(page, "Figures", figure, "eye")
    drawn = "return [...document.images].map(i => [i.complete, i.naturalWidth, i.src.slice(0, 14)])"
    sizes = WebDriverWait(page, 10).until(
        lambda p: [w for done, w, _ in p.execute_script(drawn) if done and w > 300]
    )
    assert len(sizes) == 1


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_its_caption(page, figure):
    opened(page, "Figures", figure, "information-circle")
    caption = " ".join(words(ROOT / "workflow" / "report" / f"{figure}.rst"))
    WebDriverWait(page, 10).until(lambda p: caption in text(p))
    assert "{{" not in text(page)


def test_the_front_page_states_the_claims(page):
    page.refresh()
    WebDriverWait(page, 10).until(lambda p: 'study "smoke"' in text(p))
    assert "Adversarial examples on the manifold exist" in text(page)


@pytest.mark.parametrize(
    ("table", "caption"),
    [
        ("verdicts", "Verdicts on the four claims"),
        ("learned manifolds", "The quality of learned manifolds"),
    ],
)
def test_tables_in_words_are_in_the_report(page, table, caption):
    opened(page, "Claims", table, "information-circle")
    assert WebDriverWait(page, 10).until(lambda p: caption in text(p))


def test_nothing_is_fetched_and_nothing_fails(page):
    page.refresh()
    entries = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert not [name for name in entries if not name.startswith(("data:", "file:", "blob:"))]
    assert not [line for line in page.get_log("browser") if line["level"] == "SEVERE"]
