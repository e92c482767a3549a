"""Drives an installed Chromium by the WebDriver protocol (W3C), which is JSON over HTTP."""

import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the standard's name of a reference
KEYS = {"left": "\ue012", "right": "\ue014", "backspace": "\ue003", "enter": "\ue007"}


class Browser:
    """A page in a window.

    Args:
      session: address of the driver's session.
    """

    def __init__(self, session: str):
        self._session = session

    def open(self, path: Path, query: str = "") -> None:
        self._post("url", url=path.as_uri() + query)

    def run(self, script: str, *arguments: Any) -> Any:
        """Returns what JavaScript `return`s in the page."""
        return self._post("execute/sync", script=script, args=list(arguments))

    def wait_for(self, script: str, seconds: float = 10) -> Any:
        """Waits until an expression of JavaScript is true, and returns it."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {script}")):
            assert time.monotonic() < end, f"not so within {seconds} s: {script}"
            time.sleep(0.02)
        return value

    def press(self, key: str) -> None:
        key = KEYS.get(key, key)
        steps = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._post("actions", actions=[{"type": "key", "id": "keys", "actions": steps}])

    def touch(self, selector: str) -> None:
        """Touches the middle of an element with a finger."""
        element = self._post("element", using="css selector", value=selector)[_ELEMENT]
        steps = [
            {"type": "pointerMove", "origin": {_ELEMENT: element}, "x": 0, "y": 0},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]
        finger = {"type": "pointer", "id": "finger", "parameters": {"pointerType": "touch"}}
        self._post("actions", actions=[finger | {"actions": steps}])

    def command(self, name: str, **parameters: Any) -> Any:
        """Sends a command of Chromium's own protocol."""
        return self._post("goog/cdp/execute", cmd=name, params=parameters)

    def log(self) -> list[str]:
        """Returns what the page has logged as an error since the last call."""
        entries = self._post("se/log", type="browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(_ask(f"{self._session}/screenshot")))

    def _post(self, command: str, **content: Any) -> Any:
        return _ask(f"{self._session}/{command}", content)


@contextlib.contextmanager
def browsing(downloads: Path, size: tuple[int, int], phone: bool = False) -> Iterator[Browser]:
    """Yields a browser of a profile of its own, without a window, which is ended at the end.

    Args:
      downloads: folder that downloads go to.
      size: (width, height) of the page.
      phone: whether the page is told of a phone, which is touched.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    arguments = ["--headless=new", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run"]
    arguments += [f"--window-size={size[0]},{size[1]}", "--disable-background-networking"]
    arguments += ["--no-sandbox"] if os.geteuid() == 0 else []
    options: dict[str, Any] = {"binary": CHROMIUM, "args": arguments}
    options["prefs"] = {"download.default_directory": str(downloads)}
    if phone:
        metrics = {"width": size[0], "height": size[1], "pixelRatio": 2, "touch": True}
        options["mobileEmulation"] = {"deviceMetrics": metrics}
    wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    session = None
    try:
        base = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                if _ask(f"{base}/status")["ready"]:
                    break
            assert time.monotonic() < end, "chromedriver does not start"
            time.sleep(0.05)
        made = _ask(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
        session = f"{base}/session/{made['sessionId']}"
        yield Browser(session)
    finally:
        if session:
            with contextlib.suppress(OSError):
                _ask(session, method="DELETE")
        driver.terminate()
        driver.wait()


def _ask(address: str, content: Any = None, method: str | None = None) -> Any:
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(
        address, data, {"Content-Type": "application/json"}, method=method
    )
    # The machine's proxies know nothing of a driver on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        value = json.load(error)["value"]
        raise RuntimeError(f"{value['error']}: {value['message'][:500]}") from None
