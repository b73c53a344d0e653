"""A browser for people: pages that fail a test for whatever the console, or the content security policy, complains about."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright, expect

CHROMIUM = Path("/usr/bin/chromium")
ROOT = Path(__file__).parent.parent.parent
WIDE = (1280, 800)
_WATCH = "addEventListener('securitypolicyviolation', (it) => console.error(`CSP: ${it.violatedDirective} ${it.blockedURI}`))"
expect.set_options(timeout=15_000)


def launch(playwright: Playwright) -> Browser | None:
    """The system's Chromium, or the driver's own; None where there is none."""
    for path in (str(CHROMIUM), None) if CHROMIUM.exists() else (None,):
        with contextlib.suppress(Error):
            return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    return None


class People:
    """Those who look at a server, each with a browser of their own; `complaints` are what their consoles said."""

    def __init__(self, browser: Browser, url: str) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self.url = url
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()

    def person(self, at: str = "", *, size: tuple[int, int] = WIDE, dark: bool = False) -> Page:
        width, height = size
        scheme = "dark" if dark else "light"
        context = self._browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce")
        self._contexts.append(context)
        context.add_init_script(_WATCH)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda it: self._complain(it.text) if it.type in ("error", "warning") else None)
        page.on("pageerror", lambda it: self._complain(str(it)))
        page.on("dialog", lambda it: self._complain(f"dialog: {it.message}"))
        page.goto(f"{self.url}/{at}")
        return page

    def _complain(self, text: str) -> None:
        if not any(it in text for it in self.expected):
            self.complaints.append(text)

    def leave(self) -> None:
        for context in self._contexts:
            context.close()
        assert self.complaints == []


class Desk:
    """The server of `tests.inbox.desk`, which can be stopped and started again at its place."""

    def __init__(self, store: str, hash: str = "", takes: float = 0) -> None:
        with socket.socket() as it:
            it.bind(("127.0.0.1", 0))
            self.port = it.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.store = store
        self._arguments = [str(self.port), store, hash, str(takes)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to start; `wait` until it answers."""
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        self._process = subprocess.Popen([sys.executable, "-m", "tests.inbox.desk", *self._arguments], cwd=ROOT, env=environment)

    def wait(self, *, within: float = 60) -> None:
        end = time.monotonic() + within
        while not self._answers():
            assert self._process is not None
            assert self._process.poll() is None, "the server ended by itself"
            assert time.monotonic() < end, "the server did not come up"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except (URLError, ConnectionError, TimeoutError):
            return False

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def running(*desks: Desk) -> Generator[None]:
    """All of them, started side by side."""
    try:
        for it in desks:
            it.start()
        for it in desks:
            it.wait()
        yield
    finally:
        for it in desks:
            it.stop()
