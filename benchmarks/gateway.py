"""
What a gateway adds to the platform behind it::

    python -m benchmarks.gateway [--seconds S] [--json FILE]

The platform is C{creditsync sandbox} without faults, and books at once. Its own answer
is the time from C{CreditIn} to the trade event of that credit; that of the gateway is
the time from C{CreditInSync} to its reply. C{C x W} is C connections with W credits
under way on each. Both ledgers are on disk, in a temporary folder.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from creditsync.auth import mint
from creditsync.sandbox import SandboxProcess

SIZES: Final = ((1, 1), (16, 16))
SECRET: Final = "0123456789abcdef0123456789abcdef"
WAYS: Final = ("one-shot", "two-phase")

_QUIET: Final = ["--fault", "quotes=0", "--fault", "notices=0", "--fault", "staff=0"]
_PORT: Final = re.compile(r"LineFactory starting on (\d+)")
# A booked credit has state 3; a finance request, which is pending, has not.
_EVENT: Final = re.compile(rb'^\{"event".*"state":3,.*"comment":"([^"]+)"')
_REPLY: Final = re.compile(rb'^\{"extID":"([^"]+)","status":(\d+)')


class Load:
    """
    Connections that keep so many credits under way.

    @ivar times: Seconds from each request to its answer.
    """

    def __init__(self, port: int, token: str, isSync: bool, name: str) -> None:
        self._port = port
        self._token = token
        self._isSync = isSync
        self._name = name
        self._number = 0
        self._started: dict[str, float] = {}
        self._until = 0.0
        self.times: list[float] = []
        self.others = 0

    async def run(self, connections: int, window: int, seconds: float) -> None:
        """
        Send credits for so long.
        """
        self._until = time.perf_counter() + seconds
        await asyncio.gather(*(self._talk(window) for _ in range(connections)))

    async def _talk(self, window: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        own: set[str] = set()
        for _ in range(window):
            self._send(writer, own)
        while own:
            try:
                line = await asyncio.wait_for(reader.readline(), 10)
            except TimeoutError:
                self.others += len(own)
                break
            name = self._answered(line)
            if name not in own:
                continue
            own.discard(name)
            now = time.perf_counter()
            self.times.append(now - self._started.pop(name))
            if now < self._until:
                self._send(writer, own)
        writer.close()

    def _answered(self, line: bytes) -> str:
        """
        Which request a line is the answer to.
        """
        found = (_REPLY if self._isSync else _EVENT).match(line)
        if found is None:
            return ""
        if self._isSync and found[2] != b"200":
            self.others += 1
        return found[1].decode()

    def _send(self, writer: asyncio.StreamWriter, own: set[str]) -> None:
        self._number += 1
        name = f"{self._name}-{self._number}"
        line = {
            "command": "CreditInSync" if self._isSync else "CreditIn",
            "extID": name,
            "__token": self._token,
            "data": {
                "login": 1001 + self._number % 5000,
                "amount": 1,
                "comment": name,
            },
        }
        own.add(name)
        self._started[name] = time.perf_counter()
        writer.write(json.dumps(line, separators=(",", ":")).encode() + b"\r\n")


def measure(
    port: int, token: str, isSync: bool, name: str, seconds: float
) -> dict[str, Any]:
    """
    Measure at all sizes.
    """
    figures: dict[str, Any] = {}
    for connections, window in SIZES:
        size = f"{connections}x{window}"
        warm = Load(port, token, isSync, f"w-{name}-{size}")
        asyncio.run(warm.run(connections, window, min(0.5, seconds)))
        load = Load(port, token, isSync, f"{name}-{size}")
        started = time.perf_counter()
        asyncio.run(load.run(connections, window, seconds))
        passed = time.perf_counter() - started
        times = sorted(1000 * each for each in load.times)
        figures[size] = {
            "credits/s": round(len(times) / passed),
            "p50 ms": round(median(times), 2),
            "p99 ms": round(quantiles(times, n=100, method="inclusive")[98], 2),
            "not 200": load.others,
        }
    return figures


@contextmanager
def gateway(folder: Path, sandbox: SandboxProcess, way: str) -> Iterator[int]:
    """
    Run a gateway.

    @return: Its port.
    """
    folder.mkdir()
    (folder / "key").touch(0o600)
    (folder / "key").write_text(SECRET)
    (folder / "token").write_text(sandbox.token())
    (folder / "profile").write_text("two-phase = true\n")
    command = [
        *(sys.executable, "-m", "creditsync", "serve"),
        *("--listen", "tcp:0:interface=127.0.0.1", "--ledger", "gateway.db"),
        *("--key", "key", "--upstream", f"tcp:127.0.0.1:{sandbox.port}"),
        *("--upstream-token", "token", "--upstream-profile", "profile"),
        *("--upstream-way", way),
    ]
    path = str(Path(__file__).parents[1])
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env={"PYTHONPATH": path}
        )
    try:
        for _ in range(1500):
            found = _PORT.search((folder / "log").read_text())
            if found and "the platform is connected" in (folder / "log").read_text():
                break
            time.sleep(0.02)
        else:
            raise RuntimeError((folder / "log").read_text())
        yield int(found[1])
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()


def main() -> None:
    """
    Measure what the command line asks for.
    """
    parser = ArgumentParser(description="Measure what a gateway adds.")
    add = parser.add_argument
    add("--seconds", type=float, default=5.0, help="for each figure")
    add("--quick", action="store_true", help="for a moment each, to see it work")
    add("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    seconds = 0.3 if options.quick else options.seconds
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gateway-") as scratch:
        with SandboxProcess(["--delay", "0", *_QUIET]) as sandbox:
            token = sandbox.token()
            results["sandbox"] = measure(sandbox.port, token, False, "s", seconds)
        for way in WAYS:
            with SandboxProcess(["--delay", "0", *_QUIET]) as sandbox:
                token = mint(SECRET, id=7, role=1, expires=86_400, now=time.time())
                with gateway(Path(scratch) / way, sandbox, way) as port:
                    results[way] = measure(port, token, True, way, seconds)
    for name, sizes in results.items():
        for size, figures in sizes.items():
            line = "  ".join(f"{what} {value:>9,}" for what, value in figures.items())
            print(f"{name:10} {size:6}  {line}")
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
