"""The page to try a model on: the program as users start it, and what it answers to whom."""

import base64
import concurrent.futures
import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import subprocess
import zlib

import browser as browsers
import numpy as np
import pytest
from helpers import command, encode, noise, run, truncate
from PIL import Image

import exported_model
import serving
from common import files, runtime
from common.demo import app, uploads

pytestmark = pytest.mark.xdist_group("tiny_model")
_NAMES = ["background", "<script>alert('class')</script>", *(f"digit {i}" for i in range(1, 10))]


@pytest.fixture(scope="module")
def export_dir(tiny_model, tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("export"))
    serving.export_saved_model(tiny_model.checkpoint, tiny_model.hparams, directory, _NAMES)
    return directory


@pytest.fixture(scope="module")
def model(export_dir):
    return exported_model.ExportedModel(exported_model.find(export_dir))


class Server:
    """The program, serving on a free port."""

    def __init__(self, export_dir):
        program = command("scripts/demo.py", f"--saved_model={export_dir}", "--port=0")
        self.process = subprocess.Popen(
            program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.said = self.process.stdout.readline() + self.process.stdout.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", self.said).group(1))

    def ask(self, method, path, body=None, **headers):
        """(status, headers, body) of a reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.headers, reply.read()
        finally:
            connection.close()

    def explain(self, body, **headers):
        """(status, JSON) of the answer for an image."""
        status, _, answer = self.ask("POST", "/explain", body, **headers)
        return status, json.loads(answer)

    def resident(self, key="VmRSS"):
        """Bytes of memory: now, or with VmHWM the most there were."""
        with open(f"/proc/{self.process.pid}/status") as file:
            return 1024 * int(re.search(rf"{key}:\s+(\d+) kB", file.read()).group(1))

    def stop(self, number):
        """(exit status, standard error) after a signal."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def server(export_dir):
    server = Server(export_dir)
    yield server
    server.process.kill()
    server.process.communicate()


def _huge_png():
    """100 black megapixels."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(30_001 * 10_000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks)


def _assert_answers(answer, expected):
    found = answer["classes"]
    assert [c["class"] for c in found] == list(expected.classes)
    assert [c["name"] for c in found] == [_NAMES[label] for label in expected.classes]
    np.testing.assert_allclose([c["probability"] for c in found], expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(answer["maps"], expected.maps, atol=1e-4)


def test_answers_are_the_models(tiny_model, model, server):
    """For JPEG and PNG of several sizes."""
    for image in [*tiny_model.images[:3], *tiny_model.images[50:55]]:
        status, answer = server.explain(image)
        assert status == 200, answer
        _assert_answers(answer, model.explain(image))
        with Image.open(io.BytesIO(image)) as original:
            assert (answer["width"], answer["height"]) == original.size


def test_formats_that_only_pillow_reads(model, server):
    image = noise(seed=1, size=64)
    webp, tiff = encode(image, "WEBP", lossless=True), encode(image, "TIFF")
    expected = model.explain(uploads.read(webp).jpeg)
    for encoded in (webp, tiff):
        status, answer = server.explain(encoded)
        assert status == 200, answer
        _assert_answers(answer, expected)


def test_palettes_are_applied_as_elsewhere(model, server):
    paletted = Image.new("P", (32, 32), 1)
    paletted.putpalette([0, 0, 0, 200, 40, 10])
    for encoded in (encode(paletted, "BMP"), encode(paletted, "GIF", transparency=1)):
        status, answer = server.explain(encoded)
        assert status == 200, answer
        _assert_answers(answer, model.explain(uploads.read(encoded).jpeg))


def test_rotation_is_ignored_as_elsewhere(model, server):
    """The page shows what the network sees, too."""
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees.
    wide = noise(seed=2, size=64).crop((0, 0, 64, 32))
    turned = encode(wide, "JPEG", exif=exif)
    status, answer = server.explain(turned)
    assert status == 200 and (answer["width"], answer["height"]) == (64, 32)
    _assert_answers(answer, model.explain(encode(wide, "JPEG")))
    with Image.open(io.BytesIO(base64.b64decode(answer["picture"]))) as shown:
        assert shown.size == (64, 32) and not shown.getexif()


def test_bad_files(tiny_model, server, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes(tiny_model.images[50])
    truncate(str(path))
    frames = [Image.new("P", (800, 800), i) for i in range(3)]
    many = encode(frames[0], "GIF", save_all=True, append_images=frames[1:] * 40)
    for body, sentence in [
        (b"", "The file is empty."),
        (b"A text.\n" * 100, "This is no image, or a damaged one: JPEG, PNG, "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "This is no image"),
        (path.read_bytes(), "The image cannot be decoded: image file is truncated"),
        (b"\x89PNG\r\n\x1a\n", "This is no image"),
        (many, "The image is too large: it has more than 78 pictures of 800 x 800"),
    ]:
        status, answer = server.explain(body)
        assert status == 422 and answer["error"].startswith(sentence), answer


def test_too_many_pixels_are_not_decoded(server):
    huge = _huge_png()
    server.explain(encode(noise(seed=0, size=64)))
    before = server.resident("VmHWM")
    status, answer = server.explain(huge)
    assert status == 422
    assert answer["error"] == (
        "The image is too large: it has 10000 x 10000 pixels, "
        "and at most 50 megapixels are accepted."
    )
    # Its pixels would be 300 MB.
    assert server.resident("VmHWM") < before + 50e6


def test_too_many_bytes_are_not_kept(server):
    before = server.resident("VmHWM")
    status, answer = server.explain(bytes(100_000_000))
    assert status == 413
    assert answer["error"] == "The file is too large: at most 20 MB are accepted."
    assert server.resident("VmHWM") < before + 60e6


def test_others_may_not_ask(tiny_model, server):
    """Web sites: by another name for this machine, or from another page."""
    assert server.ask("GET", "/", Host="evil.example")[0] == 400
    image = tiny_model.images[0]
    status, answer = server.explain(image, Origin="http://evil.example")
    assert status == 403 and answer["error"] == "Other web sites may not send images."
    assert server.explain(image, Origin=f"http://127.0.0.1:{server.port}")[0] == 200
    assert server.ask("GET", "/", Host=f"localhost:{server.port}")[0] == 200


def test_page(server):
    status, headers, page = server.ask("GET", "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';") and "unsafe" not in policy
    assert not re.search(rb"<script>|<style|style=|\son\w+=|https?://", page)
    for path, media_type in (("/page.css", "text/css"), ("/page.js", "text/javascript")):
        status, headers, content = server.ask("GET", path)
        assert status == 200 and headers["Content-Type"].startswith(media_type)
        assert b"innerHTML" not in content and b"://" not in content
    assert server.ask("GET", "/../demo.py")[0] == 404 and server.ask("GET", "/explain")[0] == 405


def test_many_at_once(tiny_model, model, server):
    """100 requests from 8 clients, twice: none is lost, and memory does not grow with them."""
    images = [tiny_model.images[i % 60] for i in range(100)]
    expected = {image: model.explain(image).classes for image in set(images)}
    resident = []
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            answers = list(clients.map(server.explain, images))
        for image, (status, answer) in zip(images, answers):
            assert status == 200, answer
            assert [c["class"] for c in answer["classes"]] == list(expected[image])
        resident.append(server.resident())
    # A fifth of a megabyte for each, where a photograph's pixels are 0.8 MB.
    assert resident[1] < resident[0] + 100 * 0.2e6


def test_all_places_taken(tiny_model, server):
    """Who sends slowly holds a place; others are told to come again, and are answered later."""
    slow = []
    for _ in range(app.MAX_WAITING):
        client = socket.create_connection(("127.0.0.1", server.port))
        client.sendall(b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        slow.append(client)
    image = tiny_model.images[0]
    # Until the last of them is seen.
    assert any(server.explain(image)[0] == 503 for _ in range(2000))
    status, headers, answer = server.ask("POST", "/explain", image)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert json.loads(answer)["error"].startswith("Too many images are waiting")
    for client in slow:
        client.close()
    assert any(server.explain(image)[0] == 200 for _ in range(2000))


@pytest.fixture(scope="module")
def browser(server):
    """The browser, whose camera is a made-up one."""
    arguments = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browsers.chromium(*arguments) as driver:
        driver.set_window_size(1280, 1000)
        yield driver


@pytest.fixture
def page(browser, server):
    """A function that waits for so many results: [(name, bars, what is wrong)], newest first."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(f"http://127.0.0.1:{server.port}/")

    def results(count):
        script = """return Array.from(document.querySelectorAll('.card'), card => [
            card.querySelector('.name').textContent,
            Array.from(card.querySelectorAll('.label'), label => label.textContent),
            card.querySelector('.error') && card.querySelector('.error').textContent])"""

        def found(_):
            results = browser.execute_script(script)
            return len(results) == count and all(r[1] or r[2] for r in results) and results

        return WebDriverWait(browser, 300).until(found)

    return results


def _choose(browser, paths):
    field = browser.find_element("css selector", "#files")
    field.send_keys("\n".join(map(str, paths)))


_SCRIPT_NAME = "<img src=x onerror=document.title='executed'>.jpg"


@browsers.needed
def test_chosen_images(tiny_model, model, browser, page, tmp_path):
    """Ten at once: good ones, bad ones, and names that are HTML."""
    contents = {_SCRIPT_NAME: tiny_model.images[50], "huge.png": _huge_png(), "text.jpg": b"text"}
    contents.update((f"{i}.jpg", tiny_model.images[i]) for i in range(7))
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    _choose(browser, [tmp_path / name for name in contents])
    found = {name: (bars, wrong) for name, bars, wrong in page(10)}
    assert set(found) == set(contents)
    assert "10000 x 10000 pixels" in found["huge.png"][1]
    assert found["text.jpg"][1].startswith("This is no image")
    for name, (bars, wrong) in found.items():
        if not wrong:
            expected = model.explain(contents[name]).classes
            assert bars == [_NAMES[label] for label in expected]
    # One of them is a script, too.
    assert any(_NAMES[1] in bars for bars, _ in found.values())
    assert browser.title == "Try the model"
    logged = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("422" in entry["message"] for entry in logged)
    # No name made an element.
    assert browser.execute_script("return document.scripts.length") == 1


@browsers.needed
def test_dropped_image_shows_the_map_of_the_chosen_class(tiny_model, browser, page):
    image = base64.b64encode(tiny_model.images[50]).decode()
    browser.execute_script(
        """const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
        const data = new DataTransfer();
        data.items.add(new File([bytes], 'dropped.jpg'));
        document.body.dispatchEvent(
          new DragEvent('drop', {dataTransfer: data, bubbles: true, cancelable: true}))""",
        image,
    )
    ((name, bars, _),) = page(1)
    assert name == "dropped.jpg" and len(bars) == 5
    pixels = "return document.querySelector('.card canvas').toDataURL()"
    first = browser.execute_script(pixels)
    browser.find_elements("css selector", ".bar")[1].click()
    assert browser.execute_script(pixels) != first
    canvas = browser.find_element("css selector", ".card canvas")
    assert canvas.is_displayed()
    browser.find_element("css selector", "#show_maps").click()
    assert not canvas.is_displayed()


@browsers.needed
def test_camera_and_too_many_files(browser, page, tmp_path):
    browser.find_element("css selector", "#camera").click()
    from selenium.webdriver.support.ui import WebDriverWait

    video = "return document.getElementById('video').videoWidth"
    WebDriverWait(browser, 300).until(lambda _: browser.execute_script(video))
    browser.find_element("css selector", "#shoot").click()
    ((name, bars, _),) = page(1)
    assert name.startswith("Camera, ") and len(bars) == 5
    for i in range(25):
        (tmp_path / f"{i}.txt").write_bytes(b"")
    _choose(browser, [tmp_path / f"{i}.txt" for i in range(25)])
    assert len(page(21)) == 21
    said = browser.find_element("css selector", "#message").text
    assert said.startswith("Too many images: 20 of 25 were taken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(export_dir, number):
    """Even while a client is connected and in the middle of a request."""
    server = Server(export_dir)
    assert export_dir in server.said and "--host=0.0.0.0" in server.said
    assert "at your own risk" in server.said
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /explain HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        status, err = server.stop(number)
    assert status == 0 and err.endswith("demo.py: stopped.\n") and "Traceback" not in err


@pytest.fixture(scope="module")
def old_export(export_dir, tmp_path_factory):
    """A SavedModel without the signature `explain`."""
    directory = str(tmp_path_factory.mktemp("old"))
    path = os.path.join(exported_model.find(export_dir), "saved_model.pb")
    with open(path, "rb") as file:
        saved_model = runtime.SavedModel.FromString(file.read())
    for meta_graph in saved_model.meta_graphs:
        del meta_graph.signature_def[serving.EXPLAIN_SIGNATURE]
    files.write_bytes(os.path.join(directory, "saved_model.pb"), saved_model.SerializeToString())
    return directory


def _sentence(*arguments):
    ended = run("scripts/demo.py", *arguments, status=1)
    assert "Traceback" not in ended.log and len(ended.err.strip().splitlines()) == 1
    return ended.err


def test_wrong_flags(server, old_export, tmp_path):
    assert "--saved_model" in _sentence()
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    assert "there is no such directory" in _sentence(f"--saved_model={missing}")
    assert "there is no SavedModel in it" in _sentence(f"--saved_model={empty}", "--port=0")
    assert "export the model again" in _sentence(f"--saved_model={old_export}", "--port=0")
    for port in ("70000", "-1", "http"):
        said = _sentence(f"--saved_model={empty}", f"--port={port}")
        assert f"{port}: expected an integer from 0 to 65535" in said
    taken = _sentence(f"--saved_model={empty}", f"--port={server.port}")
    assert f"--port={server.port}: Address already in use" in taken
    assert "--host=no.such.name.invalid" in _sentence(
        f"--saved_model={empty}", "--host=no.such.name.invalid"
    )


def test_newest_version(export_dir, tmp_path):
    version = os.path.basename(exported_model.find(export_dir))
    for name in ("9", version, "temporary-99"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(b"")
    (tmp_path / f"{version}0").mkdir()  # Without a SavedModel.
    assert exported_model.find(str(tmp_path)) == str(tmp_path / version)
    assert exported_model.find(str(tmp_path / "9")) == str(tmp_path / "9")
