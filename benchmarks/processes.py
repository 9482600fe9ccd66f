"""
Servers and generators as processes of their own, and the resources that they
use according to the kernel.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from attrs import define

# Seconds that a server may take to start, and to stop.
_PATIENCE: Final = 15.0
_TICK: Final = os.sysconf("SC_CLK_TCK")


class Wrong(Exception):
    """
    A measurement is invalid: a process or a check failed. The first line of
    the message says why, the others are the output of the processes.
    """


def module(*arguments: str) -> list[str]:
    """
    The command that runs a module.
    """
    return [sys.executable, "-m", *arguments]


def endpoint(port: int) -> str:
    """
    The endpoint description for this port.
    """
    return f"tcp:{port}:backlog=1024:interface=127.0.0.1"


@contextmanager
def running(
    command: Sequence[str],
    cpu: int | None,
    port: int,
    patience: float = _PATIENCE,
    folder: Path | None = None,
) -> Iterator[int]:
    """
    Run a server that listens on this port.

    @param folder: Where it runs, and finds its modules first, if not here.
    @return: Its process id.
    @raise Wrong: It did not listen, or did not stop when asked to, or the body
        failed; with the server's output.
    """
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            cwd=folder,
            preexec_fn=lambda: _settle(cpu),
        )
        try:
            _awaitPort(server, port, patience)
            yield server.pid
            server.send_signal(signal.SIGTERM)
            server.wait(patience)
        except Exception as e:
            log.seek(0)
            output = log.read()[-2000:].decode(errors="replace")
            raise Wrong(f"{e}\n{output}") from e
        finally:
            server.kill()
            server.wait()


def _settle(cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def _awaitPort(server: "subprocess.Popen[bytes]", port: int, patience: float) -> None:
    end = time.monotonic() + patience
    while server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    raise Wrong("it does not listen")


def freePort() -> int:
    """
    A port that is free at the moment.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def run(command: Sequence[str], cpu: int | None) -> dict[str, Any]:
    """
    Run a process that prints its measurements.

    @raise Wrong: It failed.
    """
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: _settle(cpu),
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise Wrong(f"{command[2]} failed: {last}\n{done.stderr[-2000:]}")
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


@define(frozen=True)
class CPUTime:
    """
    Processor time that a process has used, with all its threads.

    @ivar all: Seconds, as exactly as the kernel reports them.
    @ivar user: Seconds outside the kernel, in ticks of the kernel.
    @ivar system: Seconds in the kernel, likewise.
    """

    all: float
    user: float
    system: float

    @classmethod
    def of(cls, pid: int) -> "CPUTime":
        """
        The time used so far.
        """
        # The name, in brackets, may contain blanks.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = int(fields[11]) / _TICK, int(fields[12]) / _TICK
        # In nanoseconds and by thread, where the kernel reports it.
        with suppress(OSError, ValueError, IndexError):
            tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
            exact = sum(int(task.read_text().split()[0]) for task in tasks) / 1e9
            return cls(exact, user, system)
        return cls(user + system, user, system)

    def since(self, before: "CPUTime") -> "CPUTime":
        """
        The time used since an earlier reading.
        """
        return CPUTime(
            self.all - before.all, self.user - before.user, self.system - before.system
        )


def residentBytes(pid: int) -> int:
    """
    The resident memory of a process, in bytes.
    """
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def usedByOthers() -> float:
    """
    Processor time in seconds used so far by processes that were not started
    here.
    """
    user, nice, system = Path("/proc/stat").read_text().split(None, 4)[1:4]
    everyone = (int(user) + int(nice) + int(system)) / _TICK
    return everyone - sum(os.times()[:4])


def allowDescriptors(wanted: int) -> int:
    """
    Raise the limit of open files for this process and its children, as far as
    is allowed.

    @return: The limit in force.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
            return wanted
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
