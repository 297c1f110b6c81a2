"""The report, opened in a browser that cannot access the network."""

import os
import re
import shutil
import time
from functools import partial
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
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
FIGURES = (
    "figure1",
    "figure2",
    "figure3",
    "figure4",
    "figure5",
    "figure6",
    "prototypes",
    "manifold",
)

RETRIED_ERRORS = (
    NoSuchElementException,
    ElementClickInterceptedException,
    StaleElementReferenceException,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER) and not os.environ.get("CI"),
        reason="chromium and chromedriver are not installed",
    ),
]


@pytest.fixture(scope="module")
def page(study, tmp_path_factory) -> WebDriver:
    """A browser with the report of the smoke study, in another folder than the results."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    run = snakemake(study, "--report", path)
    assert run.returncode == 0, run.stderr[-3000:]
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,1000")  # a narrow window hides the menu
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    browser.get(path.as_uri())
    yield browser
    browser.quit()


def visible_text(page: WebDriver) -> str:
    return " ".join(page.find_element(By.TAG_NAME, "body").text.split())


def click_if_still(page: WebDriver, strategy: str, selector: str) -> bool:
    """Click an element unless it moves: a click on a moving element can hit its neighbour."""
    element = page.find_element(strategy, selector)
    position = element.rect
    time.sleep(0.2)
    if element.rect != position:
        return False
    element.click()
    return True


def click(page: WebDriver, *selectors: tuple[str, str]) -> None:
    """Click elements one after the other, each as soon as it is there and does not move."""
    for strategy, selector in selectors:
        wait = WebDriverWait(page, 10, ignored_exceptions=RETRIED_ERRORS)
        wait.until(partial(click_if_still, strategy=strategy, selector=selector))


def open_item(page: WebDriver, category: str, name: str, icon: str) -> None:
    """Open an item of the report by the icon in its row."""
    page.refresh()
    row = f"//tr[td[text()='{name}']]//a[@iconname='{icon}']"
    click(page, (By.LINK_TEXT, category), (By.XPATH, row))


def plain_words(rst: Path) -> list[str]:
    """The first words of a caption, up to its first markup or template."""
    plain = re.split(r"[{`\\|]", rst.read_text().replace("*", ""))[0]
    return plain.split()[:20]


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_is_shown(page, figure):
    open_item(page, "Figures", figure, "eye")
    script = (
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.src.slice(0, 14)])"
    )
    sizes = WebDriverWait(page, 10).until(
        lambda p: [w for is_complete, w, _ in p.execute_script(script) if is_complete and w > 300]
    )
    assert len(sizes) == 1


@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_has_its_caption(page, figure):
    open_item(page, "Figures", figure, "information-circle")
    caption = " ".join(plain_words(ROOT / "workflow" / "report" / f"{figure}.rst"))
    WebDriverWait(page, 10).until(lambda p: caption in visible_text(p))
    assert "{{" not in visible_text(page)


def test_the_front_page_states_the_claims(page):
    page.refresh()
    WebDriverWait(page, 10).until(lambda p: 'study "smoke"' in visible_text(p))
    assert "Adversarial examples on the manifold exist" in visible_text(page)


@pytest.mark.parametrize(
    ("table", "caption"),
    [
        ("verdicts", "Verdicts on the four claims"),
        ("learned manifolds", "The quality of learned manifolds"),
    ],
)
def test_tables_as_text_are_in_the_report(page, table, caption):
    open_item(page, "Claims", table, "information-circle")
    assert WebDriverWait(page, 10).until(lambda p: caption in visible_text(p))


def test_the_report_loads_nothing_from_the_network_and_has_no_errors(page):
    page.refresh()
    entries = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert not [name for name in entries if not name.startswith(("data:", "file:", "blob:"))]
    assert not [line for line in page.get_log("browser") if line["level"] == "SEVERE"]
