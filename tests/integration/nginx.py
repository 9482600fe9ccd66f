"""
A real nginx in front of servers, on loopback.
"""

import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

# Debian installs it outside the PATH of other users than root.
FOUND: Final = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")

_MAIN: Final = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{servers}
}}
"""


def freePort() -> int:
    """
    A port that is free at the moment.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


class Nginx:
    """
    An nginx process.
    """

    def __init__(self, folder: Path, servers: str, port: int) -> None:
        """
        @param servers: What stands in its C{http} block.
        @param port: One that it listens on.
        """
        assert FOUND is not None
        folder.mkdir()
        file = folder / "nginx.conf"
        file.write_text(_MAIN.format(folder=folder, servers=servers))
        self._errors = folder / "stderr"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [
                    FOUND,
                    "-p",
                    str(folder),
                    "-c",
                    str(file),
                    "-e",
                    f"{folder}/error.log",
                ],
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        self._waitFor(port)

    def _waitFor(self, port: int) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"no nginx: {self._errors.read_text()}")

    def close(self) -> None:
        """
        End it.
        """
        self._process.kill()
        self._process.wait(10)
