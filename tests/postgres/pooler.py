"""
A real PgBouncer between a node and its server, on loopback.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest
from psycopg.conninfo import make_conninfo

from creditsync._cli.ownpostgres import asServer
from tests.postgres import ground

FOUND: Final = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")

needed: Final = pytest.mark.skipif(FOUND is None, reason="no PgBouncer")

_SETTINGS: Final = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
auth_file =
pool_mode = {mode}
default_pool_size = 2
"""


class Pooler:
    """
    A PgBouncer process.

    @ivar port: Where it listens.
    """

    def __init__(self, folder: Path, database: ground.Database, mode: str) -> None:
        """
        @param mode: C{transaction} or C{session}.
        """
        assert FOUND is not None
        self._database = database
        self.port = ground.freePort()
        file = folder / "pgbouncer.ini"
        # With any user's word taken for it, it has to be told which one it is.
        settings = _SETTINGS.format(
            server=database.server.port, port=self.port, mode=mode
        )
        file.write_text(settings.replace("host=", f"user={ground.SUPERUSER} host="))
        file.chmod(0o644)
        folder.chmod(0o755)
        self._process = subprocess.Popen(
            [FOUND, "--quiet", str(file)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # It refuses to be run by root, as PostgreSQL does.
            **asServer(),
        )

    def dsn(self, **parameters: str | int) -> str:
        """
        The way to the database through it.
        """
        return make_conninfo(self._database.dsn(**parameters), port=self.port)

    def close(self) -> None:
        """
        End it.
        """
        self._process.kill()
        self._process.wait(10)
