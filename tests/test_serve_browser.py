"""The page at `/` in a headless Chromium: drop, paint, run, compare, download; and nothing from other hosts."""

import json
import shutil
import time
from urllib.parse import urlsplit

import cv2
import numpy as np
import pytest
from paging import guard_of, listening
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1280,900",
    "--enable-unsafe-swiftshader", "--disable-dev-shm-usage",
)  # fmt: skip
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


class Window:
    """A browser window with the page in it."""

    def __init__(self, driver, down):
        self.driver, self.down, self.asked, self.failed = driver, down, [], []

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def until(self, true, seconds=60):
        """What `true` gives, once it gives anything."""
        return WebDriverWait(self.driver, seconds, 0.1, ignored_exceptions=[Exception]).until(lambda _: true())

    def open(self, address):
        self.driver.get(address)
        self.until(lambda: self.find("#canvas canvas").is_displayed())

    def drop(self, path, told):
        """Give the page a picture, and wait until it is on the canvas."""
        self.find("#picture input[type=file]").send_keys(str(path))
        self.until(lambda: told in self.find("#what").text)
        time.sleep(1.5)  # the canvas draws it

    def paint(self, dx, dy):
        """A stroke of ten moves through the middle of the canvas."""
        moves = ActionChains(self.driver, duration=30)
        moves.move_to_element_with_offset(self.find("#canvas canvas"), -5 * dx, -5 * dy).click_and_hold()
        for _ in range(10):
            moves.move_by_offset(dx, dy)
        moves.release().perform()
        time.sleep(0.5)

    def choose(self, id, text):
        """An entry of a drop-down list."""
        self.find(f"#{id} input").click()
        entries = self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, "ul[role=listbox] li"))
        next(entry for entry in entries if text in entry.text).click()
        time.sleep(1)

    def run(self):
        """Press the button; the name that is offered when the job is done."""
        before = self.find("#download").text
        self.find("#run").click()
        return self.until(lambda: (text := self.find("#download").text) != before and text)

    def download(self):
        """The file that the page's own button brings."""
        self.find("#download").click()
        return self.until(lambda: next(path for path in self.down.iterdir() if not path.name.endswith("crdownload")))

    def read_log(self):
        """Add to `asked` the addresses that the browser fetched, and to `failed` those that were refused."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            elif message["method"] == "Network.responseReceived" and message["params"]["response"]["status"] >= 400:
                self.failed.append(message["params"]["response"]["url"])


@pytest.fixture
def window(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    (tmp_path / "down").mkdir()
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "down")})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield Window(driver, tmp_path / "down")
    driver.quit()


def photograph(path):
    """A picture of 1600 x 1067 with something everywhere."""
    y, x = np.mgrid[:1067, :1600]
    waves = np.stack([np.sin(x / 37 + y / 51), np.cos(y / 23), np.sin((x - y) / 71)], -1)
    grain = np.random.default_rng(0).normal(0, 6, waves.shape)
    Image.fromarray((128 + 90 * waves + grain).clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_drop_paint_run_and_download(window, tiny_folder, tmp_path):
    photo = photograph(tmp_path / "holiday.png")
    with listening(tiny_folder) as (address, app):
        window.open(address)
        window.drop(photo, "1600 x 1067")
        window.paint(12, 3)
        assert "holiday-inpaint.png" in window.run()
        assert window.find("#slider img").is_displayed()
        found = window.download()
        window.read_log()
        assert not app.state.desk.engine.running
        strokes = list(guard_of(app).folder.rglob("layer_0.png"))
        layer = np.asarray(Image.open(max(strokes, key=lambda path: path.stat().st_mtime)))
    assert found.name == "holiday-inpaint.png"
    before, after = np.asarray(Image.open(photo)), np.asarray(Image.open(found))
    assert after.shape == before.shape == (1067, 1600, 3)
    changed = (before != after).any(-1)
    hole = cv2.resize(layer[..., 3], (1600, 1067), interpolation=cv2.INTER_NEAREST) > 0
    assert layer.shape == (683, 1024, 4)
    assert not changed[~hole].any()
    assert changed[hole].mean() > 0.9
    rows, columns = np.nonzero(changed)
    assert rows.max() - rows.min() < 400  # the stroke, as broad as it was painted, and where it was painted
    assert 300 < columns.max() - columns.min() < 900
    assert abs(rows.mean() - 533) < 60
    assert abs(columns.mean() - 800) < 60
    tight = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert 0.1 < tight.mean() < 0.9  # a slanted stroke: corners of its box are as they were
    others = [url for url in window.asked if urlsplit(url).scheme in ("http", "https", "ws", "wss")]
    assert others
    assert all(url.startswith(address) for url in others)
    assert sum("/upload" in url and "progress" not in url for url in others) < 12  # the canvas, not again and again
    assert not window.failed


def test_several_answers_a_closed_window_and_a_refusal(window, tiny_folder, tmp_path, monkeypatch):
    Image.fromarray(np.asarray(Image.open(photograph(tmp_path / "big.png")))[:96, :128]).save(tmp_path / "small.png")
    with listening(tiny_folder) as (address, app):
        window.open(address)
        window.find("#run").click()
        window.until(lambda: "drop a picture first" in window.find("#status").text)
        window.drop(tmp_path / "small.png", "128 x 96")
        window.paint(6, 2)
        box = window.find("#samples input[type=number]")
        box.clear()
        box.send_keys("3\t")
        assert "small-inpaint-1.png" in window.run()
        answers = window.until(
            lambda: len(found := window.driver.find_elements(By.CSS_SELECTOR, "#gallery img")) == 3 and found
        )
        answers[2].click()
        window.until(lambda: "small-inpaint-3.png" in window.find("#download").text)
        assert window.download().name == "small-inpaint-3.png"
        engine = app.state.desk.engine
        monkeypatch.setattr("restore.serve.page_events.work", lambda *args: lambda report: _forever(engine))
        window.find("#run").click()
        while not engine.running:
            time.sleep(0.05)
        ticket = engine.running[0]
        window.driver.get("about:blank")
        assert ticket.wait(10)
        assert ticket.state == "stopped"


def _forever(engine):
    while True:
        engine.running[0].check()
        time.sleep(0.02)
