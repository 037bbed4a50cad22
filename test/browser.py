"""A browser for tests: Chromium, if that and its driver are installed.

On Debian: apt-get install chromium chromium-driver.
"""

import contextlib
import shutil

import pytest

_BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
_DRIVER = shutil.which("chromedriver")

# Of tests that use `chromium`.
needed = pytest.mark.skipif(
    not (_BROWSER and _DRIVER), reason="needs Chromium and its driver: see test/browser.py"
)


@contextlib.contextmanager
def chromium(*arguments: str):
    """Within the block, the driver of a browser without a window that is started for it.

    Args:
        arguments: further ones of Chromium's command line.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _BROWSER
    standard = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
    for argument in (*standard, *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(service=Service(_DRIVER), options=options)
    try:
        yield driver
    finally:
        driver.quit()
