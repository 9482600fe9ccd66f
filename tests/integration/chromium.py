"""
A headless Chromium, driven by its DevTools protocol over a pipe: messages are
JSON, each ended by a zero byte.
"""

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FOUND: Final = next(filter(None, map(shutil.which, NAMES)), None)

# Chromium reads from descriptor 3 and writes to 4, which may be taken here.
_LAUNCH: Final = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OPTIONS: Final = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-default-browser-check",
    "--hide-scrollbars",
)


class Chromium:
    """
    A browser with one page.

    @ivar complaints: The errors, exceptions and policy violations on the
        page's console.
    """

    def __init__(self, folder: Path) -> None:
        assert FOUND is not None
        theirInput, self._output = os.pipe()
        self._input, theirOutput = os.pipe()
        with (folder / "chromium.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-c", _LAUNCH),
                    *(str(theirInput), str(theirOutput), FOUND),
                    *_OPTIONS,
                    f"--user-data-dir={folder / 'profile'}",
                ],
                pass_fds=(theirInput, theirOutput),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        os.close(theirInput)
        os.close(theirOutput)
        self._read = b""
        self._count = 0
        self._session: str | None = None
        self._isLoaded = False
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """
        Call a method of the protocol.

        @return: Its result.
        """
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._output, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._message()
            if heard.get("id") == self._count:
                assert "error" not in heard, (method, heard["error"])
                return heard["result"]
            self._note(heard)

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            ready, _, _ = select.select([self._input], [], [], 20)
            chunk = os.read(self._input, 1 << 20) if ready else b""
            assert chunk, "Chromium does not answer"
            self._read += chunk
        line, _, self._read = self._read.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Page.loadEventFired":
                self._isLoaded = True
            case "Runtime.exceptionThrown":
                self.complaints.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.complaints.append(str(params["args"]))
            # Failed requests, and those answered with 401, are listed there
            # too.
            case "Log.entryAdded" if params["entry"]["source"] != "network":
                self.complaints.append(params["entry"]["text"])

    def open(self, address: str) -> None:
        """
        Go to a page, and wait until it is loaded.
        """
        self._isLoaded = False
        self.call("Page.navigate", url=address)
        while not self._isLoaded:
            self._note(self._message())

    def run(self, script: str) -> Any:
        """
        Evaluate an expression in the page; a promise is waited for.
        """
        done = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
        )
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, script: str, seconds: float = 15) -> None:
        """
        Wait until an expression is true.
        """
        deadline = time.monotonic() + seconds
        while not self.run(f"Boolean({script})"):
            if time.monotonic() > deadline:
                shown = self.run("document.body.innerText")
                raise AssertionError(f"not true: {script}\n{shown}")
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """
        The text of the first element that a CSS selector finds.
        """
        found: str = self.run(f"document.querySelector({selector!r}).innerText")
        return found

    def show(self, width: int, height: int, scheme: str = "light") -> None:
        """
        Emulate a screen of this size, with a light or dark colour scheme.
        """
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """
        Save the visible part of the page, or the whole page, as PNG.
        """
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        """
        End the browser.
        """
        os.close(self._output)
        os.close(self._input)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
