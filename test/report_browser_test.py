"""The evaluation report as its reader uses it, in a browser."""

import csv
import os
import re
import time

import browser as browsers
import pytest

import evaluation_report
from common.data.class_names import class_names
from common.report import statistics
from scripts.benchmarks import benchmark_report

pytestmark = [browsers.needed, pytest.mark.xdist_group("browser")]
_EVIL = '<script>window.executed = true</script><img src=x onerror="window.executed = true">'


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """(the report of made-up answers of 1,001 classes, its directory)."""
    directory = str(tmp_path_factory.mktemp("report"))
    with pytest.MonkeyPatch.context() as patch:
        names = class_names(None, 1001)
        names[7], names[8] = _EVIL, "=cmd|' /C calc'!A0"
        patch.setattr(benchmark_report, "class_names", lambda *_: names)
        yield benchmark_report.write(directory, num_classes=1001, num_images=8000), directory


@pytest.fixture(scope="module")
def browser(report):
    """The browser with the report's page."""
    with browsers.chromium() as driver:
        _, directory = report
        behavior = {"behavior": "allow", "downloadPath": directory}
        driver.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
        driver.get(f"file://{directory}/{evaluation_report.PAGE}")
        yield driver


def _rows(browser, table):
    """The texts of a table's cells, by rows that are shown."""
    return browser.execute_script(
        "return Array.from(document.getElementById(arguments[0]).tBodies[0].rows)"
        ".filter(row => !row.hidden).map(row => Array.from(row.cells, cell => cell.textContent))",
        table,
    )


def _type(browser, selector, text):
    field = browser.find_element("css selector", selector)
    field.clear()
    field.send_keys(text or " \b")  # Clearing alone is no input.


def test_nothing_is_executed_or_fetched(browser):
    assert browser.execute_script("return window.executed") is None
    assert not browser.execute_script(
        "return performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:'))"
    )
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    assert any(_EVIL in row for row in _rows(browser, "class-table"))


def test_classes_are_sorted(browser, report):
    """By the mouse, and by the keyboard."""
    from selenium.webdriver.common.keys import Keys

    expected = statistics.classes(report[0].found)
    recalls = sorted((row.recall for row in expected), reverse=True)
    buttons = browser.find_elements("css selector", "#class-table th button")
    by_name = {button.text: button for button in buttons}
    recall = by_name["recall"]
    recall.click()
    shown = [row[3] for row in _rows(browser, "class-table")]
    assert shown == [f"{value:.1%}" for value in recalls]
    recall.send_keys(Keys.ENTER)
    assert [row[3] for row in _rows(browser, "class-table")] == shown[::-1]
    headers = browser.find_elements("css selector", "#class-table th")
    sorts = [header.get_attribute("aria-sort") for header in headers]
    assert sorts == ["none", "none", "none", "ascending", "none", "none"]
    by_name["class"].send_keys(Keys.SPACE)
    names = [row[0] for row in _rows(browser, "class-table")]
    assert names.index("beaver") < names.index("goldfish, Carassius auratus")


def test_classes_are_searched(browser):
    _type(browser, "input[data-table=class-table]", "Terrier WHITE")
    assert [row[0] for row in _rows(browser, "class-table")] == ["West Highland white terrier"]
    count = browser.find_element("id", "class-table-count")
    assert re.fullmatch(r"1 of 1\D?000 rows", count.text)  # As this country writes numbers.
    _type(browser, "input[data-table=class-table]", "")
    assert len(_rows(browser, "class-table")) == 1000
    assert re.fullmatch(r"1\D?000 rows", count.text)


def test_all_confusions_are_searched(browser, report):
    """Also those that are not in the table at first."""
    found, names = report[0].found, class_names(None, 1001)
    pairs = statistics.confusions(found)
    assert len(pairs) > 1000 and len(_rows(browser, "confusion-table")) == 100
    last = pairs[-1]
    _type(browser, "#confusion-search", f"{names[last.label]} {names[last.given]}")
    shown = _rows(browser, "confusion-table")
    images = int(found.confusion[last.label].sum())
    row = [names[last.label], names[last.given], str(last.images)]
    assert [*row, f"{100 * last.images / images:.1f}%"] in shown and len(shown) < 10
    _type(browser, "#confusion-search", "<script>window")
    shown = _rows(browser, "confusion-table")
    assert shown and all(_EVIL in row for row in shown)
    assert browser.execute_script("return window.executed") is None
    _type(browser, "#confusion-search", "no such class")
    assert _rows(browser, "confusion-table") == []
    _type(browser, "#confusion-search", "")


def test_suspected_labels_are_downloaded(browser, report):
    path = os.path.join(report[1], "suspected_labels.csv")
    browser.find_element("id", "suspects-csv").click()
    deadline = time.monotonic() + 60
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.1)
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    suspects = statistics.suspected_labels(report[0].found)
    assert [int(row["record"]) for row in rows] == [e.source.record for e in suspects]
    assert len(rows) > 100 and len(_rows(browser, "suspect-table")) == len(rows)
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


@pytest.mark.parametrize("scheme, is_dark", [("light", False), ("dark", True)])
def test_page_fits_a_phone(browser, scheme, is_dark):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    size = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") == 390
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(map(int, colour[4:-1].split(",")))
        assert (brightness < 150) if is_dark else (brightness > 600)
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
