"""The pictures of the inbox in the documentation: `python -m tests.inbox.shoot [FOLDER]`."""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from playwright.sync_api import Page, expect, sync_playwright

from holdfast import Store

from .browser import ROOT, Desk, People, launch, running

SIZE = (1360, 800)
NARROW = (390, 760)
MINUTES = 60_000_000
TOLD = (  # minutes ago, user, agent, name, what was said
    (2900, "linus", "desk", "Kettle, second colour", ["How many kettles did I buy?", "Is the blue one the same?"]),
    (1500, "grace", "desk", None, ["Please fail for me"]),
    (340, "ken", "desk", "Sizing for 40 people", ["Give me a sizing for 40 people."]),
    (95, "grace", "poet", "Four lines on holding", ["Write me a verse about holding on."]),
    (62, "barbara", "desk", None, ["Think: what is six times seven?"]),
    (31, "linus", "desk", "Order 1007, again", ["Where is my order 1007?", "Thank you."]),
    (12, "margaret", "desk", "Change of address", ["Can I change my address?", "It is for the next order only."]),
)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        past, now = (Desk(f"sqlite:///{place}/{name}.db", takes=takes) for name, takes in (("past", 0), ("now", 0.7)))
        with running(past):
            for number, told in enumerate(TOLD):
                _tell(past.url, number, told)
        asyncio.run(_aged(past.store, now.store))
        with sync_playwright() as playwright:
            browser = launch(playwright)
            assert browser is not None, "there is no Chromium"
            with running(now):
                _shoot(People(browser, now.url), folder)
            browser.close()


# --- what there is to see --------------------------------------------------------------------------------------------


def _tell(url: str, number: int, told: tuple[int, str, str, str | None, list[str]]) -> None:
    _, person, agent, name, said = told
    for text in said:
        body = {"agent": agent, "session_id": f"c{number}", "user_id": person, "message": text}
        _post(f"{url}/run", body)
    if name is not None:
        _post(f"{url}/sessions/c{number}", {"name": name}, "PATCH")


def _post(url: str, body: dict[str, Any], method: str = "POST") -> None:
    request = Request(url, json.dumps(body).encode(), {"content-type": "application/json"}, method=method)
    try:
        urlopen(request, timeout=30).close()
    except OSError:
        if "fail" not in str(body):
            raise


async def _aged(past: str, now: str) -> None:
    """The same conversations, each as old as it is told to be."""
    async with Store.open(past, as_admin=True) as old, Store.open(now, as_admin=True) as new:
        for number, (minutes, *_) in enumerate(TOLD):
            lines = [line async for line in old.export(f"c{number}")]
            await new.import_(_earlier(lines, minutes * MINUTES))


def _earlier(lines: list[str], by: int) -> Iterator[str]:
    for line in lines:
        record = json.loads(line)
        for it in (record, record.get("head", {})):
            for name in ("time", "created", "updated"):
                if isinstance(it.get(name), int):
                    it[name] -= by
        yield json.dumps(record)


# --- the pictures ----------------------------------------------------------------------------------------------------


def _shoot(people: People, folder: Path) -> None:
    _post(
        f"{people.url}/run",
        {"agent": "desk", "session_id": "slow", "user_id": "alan", "message": "Speak slowly, please.", "background": True},
    )
    asked = {"agent": "desk", "session_id": "kettle", "user_id": "ada"}
    _post(f"{people.url}/run", asked | {"message": "Where is my order 1007?"})
    _post(f"{people.url}/sessions/kettle", {"name": "A kettle from Leipzig"}, "PATCH")
    page = people.person("#/s/c2", size=SIZE)
    expect(page.locator(".md table")).to_be_visible()
    _take(page, folder / "inbox-light.png")
    _post(f"{people.url}/run", asked | {"message": "It came broken. Please refund it."})
    page = people.person("#/s/kettle", size=SIZE)
    expect(page.locator(".approval")).to_be_visible()
    _take(page, folder / "inbox-approval.png")
    narrow = people.person("#/s/kettle", size=NARROW)
    expect(narrow.locator(".approval")).to_be_visible()
    _take(narrow, folder / "inbox-narrow.png")
    time.sleep(1)  # a wait that can be seen in the timeline
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".turn.agent").last).to_contain_text("Refund R-1007")
    page.get_by_role("button", name="Details").click()
    expect(page.locator(".timeline")).to_have_count(2)
    _take(page, folder / "inbox-timeline.png")
    dark = people.person("#/s/c3", size=SIZE, dark=True)
    expect(dark.locator("blockquote")).to_be_visible()
    dark.get_by_role("button", name="Details").click()
    dark.get_by_role("tab", name="What was sent").click()
    expect(dark.locator(".request")).to_be_visible()
    _take(dark, folder / "inbox-dark.png")
    people.leave()


def _take(page: Page, path: Path) -> None:
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    page.screenshot(path=path, animations="disabled")
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
