"""A TCP proxy of the tests' own: it passes bytes on, late if told so, until it is to stall, to cut, or to cut after so many bytes.

with Proxy(port) as proxy:
    connect(proxy.port)
    proxy.cut_after(100, TO_SERVER)
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from . import free_port

TO_SERVER = "to the server"
TO_CLIENT = "to the client"


class Proxy:
    """Listens on `port` of the loopback interface and forwards every connection to the server's port, from `with` to its end."""

    def __init__(self, server_port: int) -> None:
        self.port = free_port()
        self.accepted = 0
        """How many connections there were."""
        self._server_port = server_port
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        self._flowing = True
        self._seconds = 0.0
        self._refusing = False
        self._closed = False
        self._budgets: dict[str, int] = {}
        self._passed = {TO_SERVER: 0, TO_CLIENT: 0}
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone would not wake the thread that accepts
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(5)

    # --- trouble ---

    def stall(self) -> None:
        """From now on no byte passes, in either direction; connections stay open and new ones are accepted."""
        with self._changed:
            self._flowing = False

    def delay(self, seconds: float) -> None:
        """From now on whatever passes takes so much longer, in each direction."""
        self._seconds = seconds

    def go_on(self) -> None:
        """End a stall, a delay and a refusal, and forget about cuts to come; what was held up passes."""
        with self._changed:
            self._flowing, self._refusing, self._seconds = True, False, 0.0
            self._budgets.clear()
            self._changed.notify_all()

    def cut(self, *, refuse: bool = False) -> None:
        """Break every connection now; with `refuse` new ones are broken at once too, until `go_on`."""
        with self._changed:
            self._refusing = refuse
            doomed = list(self._open)
        for it in doomed:
            _break(it)

    def cut_after(self, count: int, direction: str) -> None:
        """Break the connection that passes the `count`-th byte from now on in this direction, after that byte; 0 cuts before the first."""
        with self._changed:
            self._budgets[direction] = count

    def passed(self, direction: str) -> int:
        """How many bytes have passed in this direction."""
        return self._passed[direction]

    # --- how ---

    def _start(self, target: Callable[..., None], *arguments: socket.socket | str) -> None:
        thread = threading.Thread(target=target, args=arguments, name="holdfast-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.accepted += 1
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port), 5)
            except OSError:
                _break(client)
                continue
            server.settimeout(None)
            with self._changed:
                self._open |= {client, server}
                refusing = self._refusing or self._closed
            if refusing:
                self._end(client, server)
                continue
            self._start(self._pump, client, server, TO_SERVER)
            self._start(self._pump, server, client, TO_CLIENT)

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and self._pass(data, sink, direction):
                pass
        self._end(source, sink)

    def _pass(self, data: bytes, sink: socket.socket, direction: str) -> bool:
        """Whether the connection lives on after these bytes."""
        time.sleep(self._seconds)
        with self._changed:
            self._changed.wait_for(lambda: self._flowing or self._closed)
            budget = self._budgets.get(direction)
            allowed = data if budget is None else data[:budget]
            if budget is not None:
                self._budgets[direction] = budget - len(allowed)
            self._passed[direction] += len(allowed)
            cut = budget is not None and len(data) >= budget
            if cut:
                del self._budgets[direction]
        sink.sendall(allowed)
        return not cut

    def _end(self, *ends: socket.socket) -> None:
        with self._changed:
            self._open -= set(ends)
        for it in ends:
            _break(it)


def _break(it: socket.socket) -> None:
    with suppress(OSError):
        it.shutdown(socket.SHUT_RDWR)
    it.close()
