"""A page on this machine to try an exported model on an image: probabilities, heat map, and what it is not for (Gradio)."""

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctkeras import export, images, runtime
from ctkeras.config import UserError

HOST = "127.0.0.1"  # loopback: nobody but this machine's users can reach the page
MAX_BYTES = 20 * 2**20  # bytes; of an image file
WARNING = "Not for diagnosis."
LIMITS = (
    "It answers one of its classes whatever it is shown, a photograph included. The heat is Grad-CAM: where the evidence "
    "for the likeliest class lies, not where a lesion is."
)


def serve(path: Path, *, port: int) -> None:
    """Serves the page until Ctrl-C; its address is printed once it answers.

    Args:
        path: a run folder, or a model.keras with its contract.json beside it.
        port: of 127.0.0.1; 0 takes a free one.

    Raises:
        UserError: Gradio isn't installed, no such model, or the port is taken.
    """
    gradio = _gradio()
    port = _free_port(port)
    with runtime.waiting(f"Opening {path}"):
        model, names = export.open_named(path)
        answer = Answer(model, names)
    # So that what was uploaded goes when the process is told to end, too.
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
            raise UserError(f"the page can't be served on port {port} ({error}); pass another --port") from error
        print(f"http://{HOST}:{port}", flush=True)
        runtime.note("Open it in a browser. Ctrl-C ends it.")
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            runtime.note("Ended.")
        finally:
            page.close(verbose=False)


class Answer:
    """A model that answers one image at a time; compiled once, when it is made."""

    def __init__(self, model: Any, names: list[str]) -> None:
        from ctkeras import explain

        self.names, self.size = names, int(model.input.shape[1])
        self.explain = explain.explainer(model)
        self.explain(np.zeros((1, self.size, self.size, 3), np.float32), np.array([-1]))

    def __call__(self, content: bytes, *, name: str) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
        """Probabilities by class, the image, and it under its heat.

        Args:
            content: an encoded image.
            name: what an error calls it.

        Raises:
            UserError: it is no image, or a damaged or too large one.
        """
        from ctkeras import overlay

        if len(content) > MAX_BYTES:
            raise UserError(f"{name} has {len(content) / 2**20:.0f} MB; at most {MAX_BYTES >> 20} MB are read")
        gray = images.decode_gray(content, name=name)
        pixels = images.as_rgb(images.resize(gray, self.size))[None].astype(np.float32)
        heat, chances = self.explain(pixels, np.array([-1]))
        shown = overlay.fitted(gray)
        by_name = {name: float(chance) for name, chance in zip(self.names, chances[0], strict=True)}
        return by_name, images.as_rgb(shown), overlay.overlay(shown, heat[0])


def build(gradio: Any, answer: Answer, *, use: str) -> Any:
    """The page.

    Args:
        gradio: the module.
        answer: the model.
        use: what it is for, from its contract.
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
                str(error), duration=None, title="This image can't be read", print_exception=False
            ) from error

    with gradio.Blocks(title="ctkeras: try a model", analytics_enabled=False, delete_cache=(60, 60)) as page:
        gradio.Markdown(f"# Try the model\n\n**{WARNING}** {_plain(use)}\n\n{LIMITS}")
        with gradio.Row():
            with gradio.Column():
                given = gradio.File(label="A CT slice as PNG, JPEG, …, up to 20 MB", type="filepath")
                chances = gradio.Label(label="Probabilities")
            with gradio.Column():
                heat = gradio.Image(
                    label="Evidence for the likeliest class", format="png", buttons=[], interactive=False
                )
                seen = gradio.Image(label="The image", format="png", buttons=[], interactive=False)
        gradio.on(
            [given.upload, given.clear],
            answered,
            inputs=given,
            outputs=[chances, seen, heat],
            api_name="explain",
            concurrency_limit=1,
        )
    return page


def _plain(text: str) -> str:
    """A contract's text without what Markdown or HTML would make something of."""
    return "".join(letter if letter.isalnum() or letter in " .,;:()'-/\n" else " " for letter in text)


def intended_use(path: Path) -> str:
    """What the contract beside a model says it is for; the usual words where it says nothing."""
    from ctkeras.runs.folder import read_contract

    folder = path if os.path.isdir(path) else path.parent
    try:
        return str(read_contract(folder).get("intended_use") or export.INTENDED_USE)
    except UserError:
        return export.INTENDED_USE


def _gradio() -> Any:
    """The module, without its telemetry.

    Raises:
        UserError: it isn't installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    for name in (
        "NO_PROXY",
        "no_proxy",
    ):  # Gradio asks its own page whether it is there, through a proxy if there is one
        os.environ[name] = ",".join(part for part in (os.environ.get(name), HOST, "localhost") if part)
    try:
        import gradio
    except ImportError as error:
        raise UserError("the page needs Gradio: python -m pip install 'ctkeras[app]'") from error
    return gradio


def _free_port(port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        UserError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"port {port} can't be used ({error.strerror}); pass another --port, or 0 for any"
            ) from error
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _uploads() -> Iterator[None]:
    """A folder for what is uploaded, gone when the page is."""
    with tempfile.TemporaryDirectory(prefix="ctkeras-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield
