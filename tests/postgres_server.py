"""A private PostgreSQL server in a folder of its own, where the programs for one are installed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

USER, PASSWORD = "secateurs", "s3cr3t-and-long"


def find_programs() -> Path | None:
    """Return the folder of initdb and postgres, None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()), None)


def why_not() -> str:
    """Return why no server can be started here, empty where one can."""
    if find_programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    if os.geteuid() == 0 and (shutil.which("setpriv") is None or not _account()):
        return "PostgreSQL does not run as root, and there is no account or setpriv to start it with"
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        return f"psycopg is not installed ({error}); uv sync --extra postgresql"
    return ""


def _account() -> str:
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), "")


class PostgresServer:
    """A server on localhost that wants a password; it listens nowhere else, and goes with :meth:`close`."""

    def __init__(self) -> None:
        programs = find_programs()
        assert programs is not None
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="secateurs-postgres-"))
        self.folder.chmod(0o755)
        self._as: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(self.folder, _account())
            self._as = ["setpriv", f"--reuid={_account()}", "--clear-groups"]
        (self.folder / "password").write_text(PASSWORD)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        arguments = [
            "-D",
            self._data,
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "-E",
            "UTF8",
            f"--pwfile={self.folder / 'password'}",
            "--no-sync",
        ]
        subprocess.run(
            [*self._as, str(programs / "initdb"), *arguments], check=True, capture_output=True, cwd="/", env=self._environment
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "LC_ALL": "C"}

    def url(self, password: str = PASSWORD) -> str:
        """Return the URL of the server's database."""
        return f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "16MB",
            "max_connections": 20,
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as, str(self._programs / "postgres"), "-D", self._data, *options],
                stdout=log,
                stderr=log,
                cwd="/",
                env=self._environment,
            )
        import psycopg

        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url().replace("+psycopg", ""), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: at once and without a word to its clients (SIGQUIT), or in order (SIGINT)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=60)
            self._process = None

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Execute one SQL statement and return its rows."""
        import psycopg

        with psycopg.connect(self.url().replace("+psycopg", ""), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return list(cursor.fetchall()) if cursor.description else []

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
