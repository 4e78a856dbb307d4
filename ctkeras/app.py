"""A page on this machine that shows an exported model's probabilities and heat map for an image (Gradio)."""

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ctkeras.data import crop, images
from ctkeras.data.crop import Preparation
from ctkeras.errors import UserError
from ctkeras.models import contract, predict
from ctkeras.runtime import console

if TYPE_CHECKING:
    import keras

HOST = "127.0.0.1"  # loopback: only users of this machine can reach the page
MAX_BYTES = 20 * 2**20  # bytes per image file
WARNING = "Not for diagnosis."
LIMITS = (
    "It names one of its classes for any image, even for a photograph. The heat map is Grad-CAM: it shows where the model "
    "finds evidence for the most probable class, not where a lesion is."
)


def serve(path: Path, *, port: int) -> None:
    """Serves the page until Ctrl-C; prints its address as soon as it answers.

    Args:
        path: a run folder, or a model.keras with its contract.json beside it.
        port: port on 127.0.0.1; 0 for any free one.

    Raises:
        UserError: Gradio is not installed, there is no such model, or the port is in use.
    """
    gradio = _gradio()
    port = _free_port(port)
    with console.waiting(f"Opening {path}"):
        opened = predict.open_named(path)
        answer = Answer(*opened)
    # So that uploads are also deleted when the process is asked to end.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with _uploads():
        page = build(gradio, answer, use=intended_use(path))
        try:
            page.launch(
                server_name=HOST,
                server_port=port,
                share=False,
                inbrowser=False,
                quiet=True,
                prevent_thread_lock=True,
                show_error=True,
                max_file_size=MAX_BYTES,
                footer_links=[],
                ssr_mode=False,
                pwa=False,
                enable_monitoring=False,
                theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["monospace"]),
            )
        except OSError as error:
            raise UserError(f"cannot serve the page on port {port} ({error}); pass another --port") from error
        print(f"http://{HOST}:{port}", flush=True)
        console.note("Open this address in a browser. Ctrl-C stops the page.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            console.note("Stopped.")
        finally:
            page.close(verbose=False)


class Answer:
    """A model that classifies one image at a time; compiled when it is created."""

    def __init__(self, model: "keras.Model", names: list[str], preparation: Preparation) -> None:
        from ctkeras.evaluation import gradcam

        self.names, self.size, self.preparation = names, int(model.input.shape[1]), preparation
        self.explain = gradcam.explainer(model)
        self.explain(np.zeros((1, self.size, self.size, 3), np.float32), np.array([-1]))

    def __call__(self, content: bytes, *, name: str) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """The probabilities by class, the image, and the image under its heat map.

        Args:
            content: an encoded image.
            name: name of the image in errors.

        Returns:
            ({class name: probability}, uint8 [H, W, 3], uint8 [H, W, 3]).

        Raises:
            UserError: it is not an image, is damaged or is too large.
        """
        from ctkeras.evaluation import heatmap

        if len(content) > MAX_BYTES:
            raise UserError(f"{name} has {len(content) / 2**20:.0f} MB; at most {MAX_BYTES >> 20} MB are allowed")
        gray = images.decode_gray(content, name=name, window=self.preparation.window, span=self.preparation.span)
        pixels = images.as_rgb(crop.prepare(gray, self.size, self.preparation))[None].astype(np.float32)
        heat, probabilities = self.explain(pixels, np.array([-1]))
        shown = heatmap.fitted(crop.framed(gray if gray.ndim == 2 else gray[..., 0], self.preparation))
        by_name = {name: float(value) for name, value in zip(self.names, probabilities[0], strict=True)}
        return by_name, images.as_rgb(shown), heatmap.overlay(shown, heat[0])


def build(gradio: ModuleType, answer: Answer, *, use: str) -> Any:
    """Builds the page.

    Args:
        gradio: the module.
        answer: the model.
        use: intended use of the model, from its contract.
    """

    def answered(path: str | None) -> tuple[Any, Any, Any]:
        if not path:
            return None, None, None
        try:
            with open(path, "rb") as file:
                content = file.read(MAX_BYTES + 1)
            return answer(content, name=Path(path).name)
        except UserError as error:
            raise gradio.Error(
                str(error), duration=None, title="Cannot read this image", print_exception=False
            ) from error

    with gradio.Blocks(title="ctkeras: try a model", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.Markdown(f"# Try the model\n\n**{WARNING}** {_plain(use)}\n\n{LIMITS}")
        with gradio.Row():
            with gradio.Column():
                upload = gradio.File(label="A CT slice (PNG, JPEG, …), up to 20 MB", type="filepath")
                probabilities = gradio.Label(label="Probabilities")
            with gradio.Column():
                heat = gradio.Image(
                    label="Evidence for the most probable class", format="png", buttons=[], interactive=False
                )
                image = gradio.Image(label="Image", format="png", buttons=[], interactive=False)
        gradio.on(
            [upload.upload, upload.clear],
            answered,
            inputs=upload,
            outputs=[probabilities, image, heat],
            api_name="explain",
            concurrency_limit=1,
        )
    return page


def _plain(text: str) -> str:
    """A text from a contract without characters that Markdown or HTML would interpret."""
    return "".join(letter if letter.isalnum() or letter in " .,;:()'-/\n" else " " for letter in text)


def intended_use(path: Path) -> str:
    """The intended use from the contract of a model; the default text if the contract has none."""
    from ctkeras.runs.folder import read_contract

    folder = path if os.path.isdir(path) else path.parent
    try:
        return str(read_contract(folder).get("intended_use") or contract.INTENDED_USE)
    except UserError:
        return contract.INTENDED_USE


def _gradio() -> ModuleType:
    """Imports Gradio with telemetry off.

    Raises:
        UserError: it is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in ("NO_PROXY", "no_proxy"):  # Gradio sends a request to its own page, which must not go through a proxy
        os.environ[name] = ",".join(part for part in (os.environ.get(name), HOST, "localhost") if part)
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs Gradio: python -m pip install 'ctkeras[app]'") from error
    return gradio


def _free_port(port: int) -> int:
    """The port, or a free one if it is 0.

    Raises:
        UserError: the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(f"cannot use port {port} ({error.strerror}); pass another --port, or 0 for any") from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _uploads() -> Iterator[None]:
    """A folder for uploads, deleted with the page."""
    with tempfile.TemporaryDirectory(prefix="ctkeras-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield
