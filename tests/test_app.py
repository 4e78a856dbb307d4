"""The page answers what prediction answers, takes images alone, and is there for this machine only."""

import http.client
import importlib.util
import io
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.parse

import browser
import numpy as np
import pytest
from PIL import Image

from ctkeras import app
from ctkeras.data import crop, phantom
from ctkeras.errors import UserError
from ctkeras.models import contract, predict

NAMES = ["adenocarcinoma", "large_cell", "normal", "squamous_cell"]
USE = "Research <b>only</b>. [Not](http://x) for diagnosis."


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run folder with a small convolutional model and a contract."""
    import keras

    keras.utils.set_random_seed(0)
    image = keras.Input((32, 32, 3), name="image")
    features = keras.layers.Conv2D(8, 3, activation="relu")(keras.layers.Rescaling(1 / 255)(image))
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(image, keras.layers.Softmax()(keras.layers.Dense(4)(pooled)))
    folder = tmp_path_factory.mktemp("run")
    model.save(folder / "model.keras")
    (folder / "contract.json").write_text(json.dumps({"class_names": NAMES, "intended_use": USE}))
    return folder


@pytest.fixture(scope="module")
def answer(run_folder):
    return app.Answer(*predict.open_model(run_folder))


def png(mode="L", size=(128, 128)):
    buffer = io.BytesIO()
    Image.fromarray(phantom.phantom_slice(1, 1)).convert(mode).resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def test_it_answers_what_prediction_answers(answer, run_folder, tmp_path):
    (tmp_path / "slice.png").write_bytes(png(size=(100, 60)))
    model, names, _ = predict.open_model(run_folder)
    ((_, expected, _),) = predict.predict(model, [tmp_path / "slice.png"], preparation=crop.WHOLE)
    chances, image, heat = answer(png(size=(100, 60)), name="slice.png")
    assert list(chances) == names == NAMES
    assert list(chances.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert image.dtype == heat.dtype == np.uint8
    assert image.shape == heat.shape
    assert image.shape[1] / image.shape[0] == pytest.approx(100 / 60, rel=0.02)  # shown in its own shape


def test_a_files_mode_changes_nothing(answer):
    first, *others = (answer(png(mode), name="x")[0] for mode in ("L", "RGB", "RGBA"))
    assert all(list(other.values()) == pytest.approx(list(first.values()), abs=1e-6) for other in others)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"<script>alert(1)</script>", "not in an image format", id="text under an image's name"),
        pytest.param(b"", "is empty", id="empty"),
        pytest.param(b"%PDF-1.7 ...", "not in an image format", id="a document"),
        pytest.param(png()[:200], "damaged", id="half an image"),
        pytest.param(b"\0" * (app.MAX_BYTES + 1), "at most 20 MB", id="too large"),
        pytest.param(b"\0" * app.MAX_BYTES, "not in an image format", id="as large as allowed"),
    ],
)
def test_what_is_no_image_is_refused_by_its_content(answer, content, reason):
    with pytest.raises(UserError, match=reason) as caught:
        answer(content, name="slice.png")
    assert "slice.png" in str(caught.value)


def test_the_contracts_use_is_shown_without_its_markup(run_folder, tmp_path):
    assert app.intended_use(run_folder) == app.intended_use(run_folder / "model.keras") == USE
    assert app.intended_use(tmp_path) == contract.INTENDED_USE
    assert not set("<>[]*_`#") & set(app._plain(USE))
    assert "for diagnosis" in app._plain(USE)


def command(*words, code="", **env):
    program = [sys.executable, "-c", code] if code else [sys.executable, "-m", "ctkeras", *words]
    return subprocess.run(program, capture_output=True, text=True, env=os.environ | env)


def test_without_the_extra_there_is_one_line_and_exit_code_2(run_folder):
    code = f"import sys; sys.modules['gradio'] = None; from ctkeras.cli.main import main; main(['app', {str(run_folder)!r}])"
    done = command(code=code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: the page needs Gradio: python -m pip install 'ctkeras[app]'\n"


def test_a_port_that_is_taken_is_told():
    with socket.socket() as taken:
        taken.bind((app.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot use port {port}"):
            app._free_port(port)
    port = app._free_port(0)
    with socket.socket() as free:
        free.bind((app.HOST, port))  # it is free indeed
    assert app._free_port(port) == port


# The page itself

needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs the extra [app]")


@pytest.fixture(scope="module")
def served(run_folder, tmp_path_factory):
    """The address of the page, which is told to end afterwards; nothing that was uploaded stays."""
    temporary = tmp_path_factory.mktemp("tmp")
    process = subprocess.Popen(
        [sys.executable, "-m", "ctkeras", "app", str(run_folder), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ
        | {"TMPDIR": str(temporary), "HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    )
    address = process.stdout.readline().strip()
    assert address.startswith("http://127.0.0.1:"), address
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not list(temporary.glob("ctkeras-app-*"))


def post(address, content, *, name="slice.png"):
    """Uploads a file as the page does; (status, answer)."""
    boundary = "b0undary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    connection.request("POST", "/gradio_api/upload", head + content + f"\r\n--{boundary}--\r\n".encode(), headers)
    response = connection.getresponse()
    return response.status, response.read()


def explained(address, content):
    """What the page makes of an image: the lines of its event stream."""
    status, answer = post(address, content)
    assert status == 200
    body = json.dumps({"data": [{"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}]})
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
    connection.request("POST", "/gradio_api/call/explain", body, {"Content-Type": "application/json"})
    event = json.loads(connection.getresponse().read())["event_id"]
    connection.request("GET", f"/gradio_api/call/explain/{event}")
    return connection.getresponse().read().decode()


@pytest.mark.integration
@needs_gradio
def test_an_image_is_answered(served, answer):
    stream = explained(served, png())
    assert "event: complete" in stream
    label, image, heat = json.loads(stream.partition("data: ")[2])
    expected = answer(png(), name="x")[0]
    found = {one["label"]: one["confidence"] for one in label["confidences"]}
    assert found == pytest.approx(expected, abs=1e-5)
    for picture in (image, heat):
        path = pathlib.Path(picture["path"])
        assert "ctkeras-app-" in str(path)
        assert Image.open(path).size == (384, 384)


@pytest.mark.integration
@needs_gradio
def test_what_is_no_image_is_refused_in_words(served):
    stream = explained(served, b"<script>alert(1)</script>")
    assert "event: error" in stream
    assert "not in an image format" in stream


@pytest.mark.integration
@needs_gradio
def test_over_20_mb_is_not_taken(served):
    assert post(served, b"\0" * (app.MAX_BYTES + 1))[0] == 413
    assert post(served, b"\0" * 1000)[0] == 200


@pytest.mark.integration
@needs_gradio
def test_only_this_machine_reaches_it(served):
    port = urllib.parse.urlsplit(served).port
    listening = pathlib.Path("/proc/net/tcp").read_text() + pathlib.Path("/proc/net/tcp6").read_text()
    found = [line.split()[1] for line in listening.splitlines() if f":{port:04X}" in line.split()[1]]
    assert found
    assert {address.partition(":")[0] for address in found} == {"0100007F"}  # 127.0.0.1


@pytest.mark.integration
@needs_gradio
@pytest.mark.skipif(browser.program() is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_works_offline_and_warns(served):
    with browser.chromium() as shown:
        shown.open(served, width=360)
        for _ in range(60):
            if shown.run("!!document.querySelector('input[type=file]')"):
                break
            time.sleep(0.5)
        text = shown.run("document.body.innerText")
        assert "Not for diagnosis." in text
        assert "Research" in text
        assert shown.run("document.documentElement.scrollWidth") <= 360
        assert [c for c in shown.complaints if c.startswith("request to")] == []
