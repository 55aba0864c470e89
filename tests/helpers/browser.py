"""A headless Chromium for the tests, driven over its DevTools protocol (websocket-client comes with
JupyterLab).
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def program() -> str | None:
    """Path of a Chromium; CHROMIUM (environment) names another one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser process with a profile of its own in `folder`; `page()` gives a tab, `close()` ends
    it.
    """

    def __init__(self, folder: Path):
        command = [
            program(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
        ]
        command += [
            f"--user-data-dir={folder}",
            "--remote-debugging-port=0",
            "--remote-allow-origins=*",
            "about:blank",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        told, deadline = Path(folder) / "DevToolsActivePort", time.time() + 60
        while not (told.is_file() and told.read_text().count("\n")):
            if time.time() > deadline or self.process.poll() is not None:
                self.close()
                raise RuntimeError("Chromium did not start")
            time.sleep(0.1)
        self.address = f"http://127.0.0.1:{told.read_text().split()[0]}"

    def page(self) -> "Page":
        ask = urllib.request.Request(f"{self.address}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(ask) as answer:
            return Page(json.load(answer)["webSocketDebuggerUrl"])

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Page:
    """One tab. `problems`: what its console said at level error, exceptions, and what could not be
    loaded, since `open`.
    """

    def __init__(self, address: str):
        self.socket = websocket.create_connection(address, timeout=120)
        self.numbers, self.events, self.problems = itertools.count(1), [], []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters) -> dict:
        """Result of one command of the protocol; RuntimeError when the browser refuses it."""
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != number:
            self._note(message)
        if "error" in message:
            raise RuntimeError(f"{method}: {message['error']['message']}")
        return message["result"]

    def _note(self, message: dict) -> None:
        what, told = message.get("method"), message.get("params", {})
        self.events.append(what)
        if what == "Runtime.exceptionThrown":
            self.problems.append(
                told["exceptionDetails"].get("exception", {}).get("description", "exception")
            )
        elif what == "Runtime.consoleAPICalled" and told["type"] == "error":
            self.problems.append(
                " ".join(str(a.get("value", a.get("description"))) for a in told["args"])
            )
        elif what == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.problems.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    def open(self, url: str) -> None:
        """Load a page, until its `load` event."""
        self.events, self.problems = [], []
        self.ask("Page.navigate", url=url)
        deadline = time.time() + 120
        while "Page.loadEventFired" not in self.events:
            if time.time() > deadline:
                raise TimeoutError(f"{url} did not load")
            self.run("0")
            time.sleep(0.05)

    def run(self, expression: str):
        """Value of a JavaScript expression, awaited; RuntimeError with what it threw."""
        told = self.ask(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in told:
            raise RuntimeError(
                told["exceptionDetails"].get("exception", {}).get("description", "exception")
            )
        return told["result"].get("value")

    def wait(self, expression: str, seconds: float = 60):
        """Value of an expression as soon as it is true; TimeoutError."""
        deadline = time.time() + seconds
        while not (value := self.run(expression)):
            if time.time() > deadline:
                raise TimeoutError(f"not true after {seconds:g} s: {expression}")
            time.sleep(0.2)
        return value

    def size(self, width: int, height: int, phone: bool = False) -> None:
        """Size of the window in CSS px; `phone`: as a phone lays pages out."""
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )

    def scheme(self, name: str) -> None:
        """`light` or `dark`, as the system would ask for."""
        self.ask(
            "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}]
        )

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of the first element that a CSS selector finds."""
        box = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            f"e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height "
            "/ 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.ask(
                "Input.dispatchMouseEvent",
                type=kind,
                x=box[0],
                y=box[1],
                button="left",
                clickCount=1,
            )

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """PNG of the window, or of the whole page."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))
