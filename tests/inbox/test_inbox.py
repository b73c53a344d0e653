"""The inbox, through what a person does with it, in a real browser against a real server."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, FilePayload, Locator, Page, Route, expect, sync_playwright

from holdfast.server.hashes import hash_of, new_key

from .browser import Desk, People, launch, running
from .desk import BROKEN, CALLS, HOSTILE, LEFT, LONG, MANY, seed, seed_one

NARROW = (390, 780)
MOST_NODES = 1_500
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc000000301010018dd8db00000000049454e44ae426082"
)


class Place(NamedTuple):
    """Where everything happens: one server open to its own machine, one that wants a key."""

    browser: Browser
    desk: Desk
    locked: Desk
    key: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    key = new_key()
    folder = tmp_path_factory.mktemp("inbox")
    desk = Desk(f"sqlite:///{folder / 'open.db'}?synchronous=off")
    locked = Desk(f"sqlite:///{folder / 'locked.db'}?synchronous=off", hash_of(key))
    asyncio.run(seed(desk.store))
    asyncio.run(seed_one(locked.store))
    with sync_playwright() as playwright:
        browser = launch(playwright)
        if browser is None:
            pytest.skip("the inbox is not tested: there is no Chromium")
        with running(desk, locked):
            yield Place(browser, desk, locked, key)
        browser.close()


@pytest.fixture
def people(place: Place) -> Generator[People]:
    them = People(place.browser, place.desk.url)
    yield them
    them.leave()


def begin(page: Page, text: str) -> None:
    """Begin a conversation with the desk."""
    page.keyboard.press("n")
    expect(page.get_by_role("radio", name="desk")).to_be_checked()
    say(page, text)
    expect(page.locator(".turn.user").first).to_be_visible()


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.keyboard.press("Enter")


def _agent(name: str) -> dict[str, str | None]:
    return {"name": name, "kind": "agent", "instructions": None}


def picture(name: str, size: int = 0) -> FilePayload:
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": PIXEL.ljust(size, b"\0")}


def rows(page: Page) -> Locator:
    return page.get_by_role("option")


def here(page: Page) -> str:
    """The part of the address that names the open conversation."""
    page.wait_for_url(re.compile("#/s/"))
    return page.url[page.url.index("#") :]


# --- talking ---------------------------------------------------------------------------------------------------------


def test_a_conversation_is_begun_and_read_as_it_is_said(people: People) -> None:
    page = people.person()
    begin(page, "Speak slowly")
    live = page.locator(".turn.live")
    expect(live).to_contain_text("The first half is said at once.")
    expect(live).not_to_contain_text("said later")
    expect(rows(page).first.get_by_text("running")).to_have_count(1)
    assert page.request.post(f"{people.url}/run", data={"agent": "poet", "session_id": "aside", "message": "Go on"}).ok
    expect(page.locator(".turn.agent strong")).to_have_text("said later")
    expect(live).to_have_count(0)
    expect(page.locator(".end")).to_contain_text("tokens")
    row = rows(page).filter(has_text="Speak slowly")
    expect(row).to_contain_text("The first half is said at once")
    assert page.locator(".turn.agent").inner_text().count("The first half") == 1


def test_who_begins_a_conversation_goes_on_writing_in_it(people: People) -> None:
    page = people.person()
    held: list[Route] = []
    page.route("**/run", lambda it: held.append(it))
    page.keyboard.press("n")
    expect(page.get_by_role("radio", name="desk")).to_be_checked()
    say(page, "First of all")
    expect(page.get_by_text("sending")).to_be_visible()
    page.keyboard.type("then ")
    page.keyboard.press("Enter")
    held.pop().continue_()
    expect(page.locator(".turn.user")).to_have_text(re.compile("First of all"))
    page.keyboard.type("for that")
    expect(page.get_by_label("Message", exact=True)).to_have_value("then for that")
    assert held == []


def test_thoughts_and_calls_are_folded(people: People) -> None:
    page = people.person()
    begin(page, "Think about it")
    page.get_by_text("Thought: Six times seven").click()
    expect(page.get_by_text("That is more than forty.", exact=True)).to_be_visible()
    say(page, "Where is my order?")
    call = page.locator("details.call")
    expect(call).to_contain_text("find_order")
    expect(call.locator("summary")).to_contain_text("city: Leipzig")
    expect(call.get_by_text('"carrier": "DHL"')).to_be_hidden()
    call.locator("summary").click()
    expect(call.get_by_text('"carrier": "DHL"')).to_be_visible()
    expect(page.get_by_role("cell", name="DHL")).to_be_visible()


def test_a_picture_goes_along(people: People) -> None:
    page = people.person()
    page.keyboard.press("n")
    page.locator("input[type=file]").set_input_files(picture("kettle"))
    expect(page.get_by_text("kettle.png")).to_be_visible()
    say(page, "Look at this")
    expect(page.locator(".turn.user img.media")).to_be_visible()
    expect(page.locator(".turn.agent:not(.live)")).to_contain_text("[input_image]")
    assert page.locator("img.media").evaluate("it => it.complete && it.naturalWidth") == 1


def test_pictures_that_do_not_fit_are_refused_before_they_are_sent(people: People) -> None:
    page = people.person()
    begin(page, "Some pictures")
    chosen = page.locator("input[type=file]")
    chosen.set_input_files([picture("half", 3_000_000), picture("rest", 3_000_000), picture("drop")])
    expect(page.locator(".chip")).to_have_text([re.compile("half.png"), re.compile("rest.png")])
    expect(page.locator(".toasts")).to_have_text("drop.png is too large: a message takes 6 MB of images, all together")
    say(page, "Both of them")
    expect(page.locator(".turn.user img.media")).to_have_count(2)
    chosen.set_input_files([picture(str(number)) for number in range(11)])
    expect(page.locator(".chip")).to_have_count(10)
    expect(page.locator(".toasts")).to_contain_text("10.png is one too many")


@pytest.mark.parametrize("name", [LEFT, "s00007"])
def test_where_no_agent_has_a_conversation_one_is_chosen(people: People, name: str) -> None:
    page = people.person(f"#/s/{name}")
    expect(page.get_by_text("Which agent goes on with this conversation?")).to_be_visible()
    page.get_by_role("radio", name="poet").check()
    say(page, "A verse of it")
    expect(page.locator(".turn.agent:not(.live)").last).to_contain_text("The tide lets go")
    expect(page.locator(".turn.agent .who").last).to_have_text("poet")
    expect(page.get_by_role("radio")).to_have_count(0)
    say(page, "And on")
    expect(page.locator(".turn.agent:not(.live)").last).to_contain_text("You said: And on")
    expect(page.locator(".turn.agent .who").last).to_have_text("poet")


def test_a_message_whose_agent_has_left_meanwhile_goes_to_another(people: People) -> None:
    people.expected = ("404",)
    page = people.person()
    begin(page, "To the one who leaves")
    expect(page.locator(".end")).to_have_count(1)
    page.route("**/agents", lambda it: it.fulfill(json=[_agent("poet"), _agent("clerk")]))
    page.route("**/run", lambda it: it.fulfill(status=404, json={"detail": "there is no agent 'desk'"}), times=1)
    say(page, "Still there?")
    expect(page.locator(".turn.failed")).to_contain_text("there is no agent")
    expect(page.get_by_role("radio", name="poet")).to_be_checked()
    page.get_by_role("button", name="Send again").click()
    expect(page.locator(".turn.agent:not(.live) .who").last).to_have_text("poet")


def test_the_only_agent_is_not_asked_for(people: People) -> None:
    page = people.person()
    page.route("**/agents", lambda it: it.fulfill(json=[_agent("desk")]))
    for name in (LEFT, "s00008"):
        page.goto(f"{people.url}/#/s/{name}")
        expect(page.locator(".log .begin")).to_be_visible()
        say(page, "And what of this?")
        expect(page.locator(".turn.agent:not(.live)").last).to_contain_text("You said: And what of this?")
        expect(page.get_by_role("radio")).to_have_count(0)


def test_a_run_is_cancelled(people: People) -> None:
    page = people.person()
    begin(page, "Wait forever")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".end.cancelled")).to_be_visible()
    expect(page.locator(".turn.live")).to_have_count(0)


def test_a_run_that_fails_says_so_and_no_more(people: People) -> None:
    page = people.person()
    begin(page, "Please fail")
    expect(page.locator(".end.error")).to_contain_text("failed")
    expect(rows(page).first.get_by_text("failed")).to_have_count(1)


def test_a_run_that_failed_is_tried_again(people: People) -> None:
    page = people.person()
    page.keyboard.press("n")
    page.locator("input[type=file]").set_input_files(picture("proof"))
    expect(page.get_by_text("proof.png")).to_be_visible()
    say(page, "Does it falter?")
    again = page.get_by_role("button", name="Try again")
    again.click()
    expect(page.locator(".turn.agent:not(.live)")).to_contain_text("It holds now.")
    expect(again).to_have_count(0)
    expect(page.locator(".turn.user")).to_have_count(1)
    assert page.locator(".end").count() == 2


def test_a_run_that_was_broken_off_is_tried_again(people: People) -> None:
    page = people.person(f"#/s/{BROKEN}")
    page.route("**/run", lambda it: it.fulfill(status=202, json={}))
    with page.expect_request("**/run") as asked:
        page.get_by_role("button", name="Try again").click()
    said: dict[str, object] = asked.value.post_data_json or {}
    run = page.locator(".end.interrupted").get_attribute("data-run")
    assert (said["session_id"], said["run_id"], said["message"]) == (BROKEN, run, "Where did it break?")


# --- deciding --------------------------------------------------------------------------------------------------------


def test_a_refund_is_approved_in_one_browser_and_seen_in_the_other(people: People) -> None:
    ada, bob = people.person(), people.person()
    begin(ada, "Please refund my kettle")
    card = ada.locator(".approval")
    expect(card).to_contain_text("refund")
    expect(card.locator(".expires")).to_contain_text("expires in")
    expect(rows(bob).first).to_contain_text("Please refund my kettle")
    expect(rows(bob).first.get_by_text("waits for you")).to_have_count(1)
    rows(bob).first.click()
    expect(bob.locator(".approval")).to_contain_text("39.9")
    card.get_by_role("button", name="Approve").click()
    for page in (ada, bob):
        expect(page.locator(".turn.agent").last).to_contain_text("Refund R-1007 of 39.90 EUR")
        expect(page.locator(".approval")).to_have_count(0)
        expect(page.locator(".cut")).to_have_text("approved")
    expect(rows(bob).first.get_by_text("waits for you")).to_have_count(0)


def test_who_decides_too_late_is_told(people: People) -> None:
    people.expected = ("409",)
    ada, bob = people.person(), people.person()
    begin(ada, "Refund it to one of us")
    bob.goto(f"{people.url}/{here(ada)}")
    bob.get_by_role("button", name="Deny").click()
    held: list[Route] = []
    bob.route("**/decisions", lambda it: held.append(it))
    bob.keyboard.press("Enter")
    ada.get_by_role("button", name="Approve").click()
    expect(ada.locator(".turn.agent").last).to_contain_text("Refund R-1007")
    expect(bob.locator(".approval")).to_have_count(0)
    held.pop().continue_()
    expect(bob.locator(".toasts .bad")).to_contain_text("decided")


def test_a_refund_is_denied_with_a_reason(people: People) -> None:
    page = people.person()
    begin(page, "Refund it")
    page.get_by_role("button", name="Deny").click()
    page.get_by_label("Reason").fill("too late")
    page.keyboard.press("Enter")
    expect(page.locator(".cut")).to_have_text("denied: too late")
    expect(page.locator(".turn.agent").last).to_contain_text("Done.")


def test_arguments_are_changed(people: People) -> None:
    page = people.person()
    begin(page, "Refund half of it")
    page.get_by_role("button", name="Change").click()
    page.get_by_label("amount").fill("20")
    page.get_by_role("button", name="Approve with changes").click()
    expect(page.locator(".turn.agent").last).to_contain_text("of 20.00 EUR")
    expect(page.locator(".cut")).to_have_text("approved, with changes")


def test_fields_are_filled_in_and_results_supplied(people: People) -> None:
    page = people.person()
    begin(page, "Send it again")
    expect(page.get_by_label("floor")).to_have_attribute("type", "number")
    page.get_by_label("street").fill("Main Street 1")
    page.get_by_label("floor").fill("3")
    page.get_by_role("button", name="Send", exact=True).first.click()
    expect(page.locator(".turn.agent").last).to_contain_text("goes to Main Street 1, floor 3")
    say(page, "How many are in stock?")
    page.get_by_label("Result").fill("12")
    page.get_by_role("button", name="Supply").click()
    expect(page.locator(".turn.agent").last).to_contain_text("Done. 12")


def test_a_copy_of_what_waits_waits_for_nobody(people: People) -> None:
    page = people.person()
    begin(page, "Refund what is copied")
    expect(page.locator(".call .state")).to_have_text("waits")
    expect(page.locator(".approval")).to_be_visible()
    page.locator(".log").press("f")
    expect(page.locator(".call .state")).to_have_text("no result")
    expect(page.locator(".approval")).to_have_count(0)
    page.go_back()
    page.get_by_role("button", name="Approve").click()
    expect(page.locator(".turn.agent").last).to_contain_text("Refund R-1007")


def test_what_waits_is_found_by_the_filter(people: People) -> None:
    page = people.person()
    begin(page, "Refund this and wait")
    expect(page.locator(".approval")).to_be_visible()
    page.get_by_role("button", name="Waiting").click()
    expect(rows(page)).to_have_count(1)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_text("Nothing waits")).to_be_visible()
    page.get_by_role("button", name="All").click()
    expect(rows(page).first).to_contain_text("Refund this and wait")


def test_one_users_conversations(people: People) -> None:
    page = people.person()
    page.get_by_label("User").fill("user3")
    expect(rows(page).first.locator(".who")).to_have_text("user3")
    assert set(page.locator(".row .who").all_text_contents()) == {"user3"}
    page.get_by_label("User").fill("nobody at all")
    expect(page.get_by_text("No conversations", exact=True)).to_be_visible()


def test_a_conversation_is_begun_as_somebody_else_only_where_that_is_chosen(people: People) -> None:
    page = people.person()
    page.get_by_label("User").fill("user3")
    expect(rows(page).first.locator(".who")).to_have_text("user3")
    page.locator(".list").focus()
    for chosen, user in ((False, "user"), (True, "user3")):
        page.keyboard.press("n")
        as_user = page.get_by_role("checkbox", name="as user3")
        expect(as_user).not_to_be_checked()
        as_user.set_checked(chosen)
        say(page, "Whose is it?")
        expect(page.locator(".turn.agent:not(.live)")).to_be_visible()
        expect(page.locator(".turn.user .who")).to_have_text(user)
        page.locator(".log").focus()


def test_who_may_see_only_their_own_is_not_asked_for_a_user(place: Place) -> None:
    them = People(place.browser, place.locked.url)
    them.expected = ("403", "401")
    page = them.person()
    page.get_by_label("API key").fill(place.key)
    page.keyboard.press("Enter")
    expect(rows(page).first).to_be_visible()
    page.get_by_label("User").fill("bob")
    expect(page.locator(".toasts")).to_contain_text("Only admins")
    expect(page.locator("input.user")).to_be_hidden()
    expect(rows(page).first).to_be_visible()
    them.leave()


# --- keeping order ---------------------------------------------------------------------------------------------------


def test_rename_fork_search_export_and_delete(people: People) -> None:
    page, other = people.person(), people.person()
    begin(page, "A thing to keep")
    expect(page.locator(".end")).to_be_visible()
    page.locator(".log").focus()
    page.keyboard.press("r")
    page.get_by_role("textbox", name="Name").fill("Kept: zanzibar")
    page.keyboard.press("Enter")
    expect(rows(other).first).to_contain_text("Kept: zanzibar")
    first = here(page)
    page.locator(".log").focus()
    page.keyboard.press("f")
    expect(page.locator(".bar h1")).to_have_text("Kept: zanzibar (fork)")
    assert here(page) != first
    expect(page.locator(".turn.user")).to_contain_text("A thing to keep")
    page.keyboard.press("/")
    page.keyboard.type("zanzibar")
    expect(rows(page)).to_have_count(2)
    page.locator(".log").focus()
    with page.expect_download() as download:
        page.keyboard.press("e")
    assert download.value.suggested_filename == "Kept-zanzibar-fork-.jsonl"
    assert "A thing to keep" in Path(download.value.path()).read_text("utf-8")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(rows(page)).to_have_count(1)
    expect(rows(other).filter(has_text="(fork)")).to_have_count(0)


def test_what_was_said_is_found(people: People) -> None:
    page = people.person()
    begin(page, "An erratic penguin asks")
    first = here(page)
    expect(page.locator(".end")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("erratic penguin")
    page.locator(".hit", has_text="An erratic penguin asks").first.click()
    assert here(page) == first


def test_a_search_tells_how_it_stands_and_what_was_said_comes_at_once(people: People) -> None:
    page = people.person()
    begin(page, "A patient heron stands")
    expect(page.locator(".end")).to_be_visible()
    begin_of_it = here(page)
    held: list[Route] = []
    page.route(re.compile(r"/sessions\?.*name=patient"), lambda it: held.append(it))
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("patient heron")
    expect(page.locator(".list [role=status]")).to_contain_text("Searching…")
    expect(page.locator(".hit", has_text="A patient heron stands").first).to_be_visible()
    held.pop().fulfill(json={"items": [], "cursor": "more"})
    expect(page.locator(".list [role=status]")).to_contain_text("1 page looked through")
    expect(page.locator(".list [role=status]")).to_contain_text("Searching…")
    with page.expect_event("requestfailed", lambda it: "patient" in it.url):
        page.get_by_label("Search conversations").fill("heron that is patient")
    page.locator(".hit", has_text="A patient heron stands").first.click()
    assert here(page) == begin_of_it


def test_a_search_looks_at_more_at_once_and_waits_while_it_goes_on(people: People) -> None:
    page = people.person()
    expect(rows(page).first).to_be_visible()
    asked: list[str] = []
    page.on("request", lambda it: asked.append(it.url) if "name=" in it.url else None)
    page.route(re.compile(r"/sessions\?.*name="), lambda _: None)
    page.get_by_label("Search conversations").fill("z")
    expect(page.locator(".list [role=status]")).to_contain_text("Searching…")
    page.get_by_label("Search conversations").press_sequentially("ebra", delay=250)
    with page.expect_request(re.compile("name=zebra")):
        pass
    assert [re.findall(r"name=(\w+)&limit=(\d+)", it) for it in asked] == [[("z", "200")], [("zebra", "200")]]


def test_what_is_written_outlives_the_conversation_and_a_reload(people: People) -> None:
    people.expected = ("404",)  # whoever asks for more of it at that moment
    page = people.person()
    begin(page, "Soon to be deleted")
    expect(page.locator(".end")).to_be_visible()
    written = page.get_by_label("Message", exact=True)
    written.fill("A long thought")
    page.reload()
    expect(written).to_have_value("A long thought")
    session = here(page).removeprefix("#/s/")
    assert page.request.delete(f"{people.url}/sessions/{session}").ok
    expect(page.locator(".toasts")).to_have_text("It was deleted meanwhile. What you wrote is here, for a new conversation.")
    expect(page.get_by_role("radio", name="desk")).to_be_checked()
    expect(written).to_have_value("A long thought")
    expect(written).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".turn.agent:not(.live)")).to_contain_text("You said: A long thought")
    expect(written).to_have_value("")


def test_who_deletes_a_conversation_is_told_no_more_than_that(people: People) -> None:
    people.expected = ("404",)  # whoever asks for more of it at that moment
    page, other = people.person(), people.person()
    begin(page, "Gone at once")
    expect(page.locator(".end")).to_be_visible()
    other.goto(f"{people.url}/{here(page)}")
    expect(other.locator(".end")).to_be_visible()
    written = page.get_by_label("Message", exact=True)
    written.fill("Never mind")
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".toasts p")).to_have_text(["Deleted"])
    expect(other.locator(".toasts p")).to_have_text(["It was deleted meanwhile"])
    for it in (page, other):
        expect(it.get_by_text("Choose a conversation")).to_be_visible()
    page.keyboard.press("n")
    expect(written).to_have_value("")


def test_the_agent_names_it(people: People) -> None:
    page = people.person()
    begin(page, "About a kettle")
    expect(page.locator(".end")).to_be_visible()
    page.locator(".bar .name").click()
    page.get_by_role("button", name="Let the agent name it").click()
    expect(page.locator(".bar h1")).to_have_text("A kettle from Leipzig")


def test_going_back_to_a_message_is_seen_by_all(people: People) -> None:
    page = people.person()
    begin(page, "The first thing")
    expect(page.locator(".end")).to_have_count(1)
    say(page, "The second thing")
    expect(page.locator(".end")).to_have_count(2)
    other = people.person(here(page))
    expect(other.locator(".turn.user")).to_have_count(2)
    rewind(page, page.locator(".turn.agent").first)
    for it in (page, other):
        expect(it.locator(".turn.user")).to_have_count(1)
        expect(it.get_by_text("The first thing").last).to_be_visible()


def test_going_back_leaves_nobody_at_work(people: People) -> None:
    page = people.person()
    begin(page, "The first thing")
    expect(page.locator(".end")).to_have_count(1)
    say(page, "Where is my order?")
    expect(page.locator(".end")).to_have_count(2)
    rewind(page, page.locator(".turn.agent").nth(1))
    expect(page.locator(".call .state")).to_have_text("no result")
    expect(page.locator(".end")).to_have_count(1)
    expect(page.locator(".turn.live")).to_have_count(0)
    rewind(page, page.locator(".turn.user").last)
    expect(page.locator(".call")).to_have_count(0)
    expect(page.locator(".turn.user")).to_have_count(2)
    expect(page.locator(".turn.live")).to_have_count(0)
    first = here(page)
    page.locator(".turn.user").last.hover()
    page.locator(".turn.user").last.get_by_role("button", name="Fork").click()
    page.wait_for_url(lambda url: first not in url)
    expect(page.locator(".turn.user")).to_have_count(2)
    expect(page.locator(".turn.live")).to_have_count(0)
    expect(page.locator(".end")).to_have_count(1)
    say(page, "And on")
    expect(page.locator(".end")).to_have_count(2)
    expect(page.locator(".turn.live")).to_have_count(0)


def test_a_run_that_nobody_drives_is_not_shown_at_work(people: People) -> None:
    page = people.person(f"#/s/{BROKEN}")
    expect(page.locator(".end.interrupted")).to_contain_text("broken off: its process ended")
    expect(page.locator(".call .state")).to_have_text("no result")
    expect(page.locator(".turn.live")).to_have_count(0)


BEGUN = """
import asyncio, sys
from holdfast import Store, user
async def main():
    async with Store.open(sys.argv[1], as_admin=True) as store:
        session = await store.session("killed")
        async with session.run(user("Will this end?"), agent="desk", lease=1):
            print("begun", flush=True)
            await asyncio.sleep(600)
asyncio.run(main())
"""


def test_a_process_that_dies_while_somebody_looks_on(people: People, place: Place) -> None:
    """What it did is shown as work, then as broken off, and then as whoever comes later sees it."""
    with subprocess.Popen([sys.executable, "-c", BEGUN, place.desk.store], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            page = people.person("#/s/killed")
            live = page.locator(".turn.live")
            expect(live).to_contain_text("working")
            expect(page.locator(".log").get_by_text("broken off")).to_have_count(0)
        finally:
            process.kill()
    expect(page.locator(".turn.live.left")).to_have_count(1)
    expect(page.locator(".end.interrupted")).to_contain_text("broken off: its process ended")
    expect(live).to_have_count(0)
    later = people.person("#/s/killed")
    expect(later.locator(".end.interrupted")).to_have_count(1)
    for it in (page, later):
        expect(it.locator(".row[data-id=killed] .dot")).to_have_text("broken off")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".turn.agent:not(.live)")).to_contain_text("You said: Will this end?")
    expect(page.locator(".turn.user")).to_have_count(1)


def rewind(page: Page, turn: Locator) -> None:
    turn.hover()
    turn.get_by_role("button", name="Rewind").click()
    page.get_by_role("dialog").get_by_role("button", name="Rewind").click()


def test_runs_what_was_sent_state_and_info(people: People) -> None:
    page = people.person()
    begin(page, "Where is my order?")
    expect(page.locator(".end")).to_be_visible()
    page.get_by_role("button", name="Details").click()
    expect(page.locator(".timeline .span.tool")).to_have_count(1)
    assert page.locator(".timeline .span.model").count() == 2
    expect(page.locator(".tokens")).to_contain_text("tokens in")
    page.get_by_role("button", name="What was sent").click()
    expect(page.get_by_text("Request 2")).to_be_visible()
    page.get_by_role("tab", name="What was sent").press("ArrowRight")
    expect(page.get_by_text("This conversation")).to_be_visible()
    page.get_by_role("tab", name="Info").click()
    expect(page.locator(".facts")).to_contain_text("Input tokens")


def test_keys_of_the_state_are_read_whole(people: People) -> None:
    page = people.person(f"#/s/{LONG}")
    expect(page.locator(".log").get_by_text("Answer 199.")).to_be_visible()
    for key in ("cart", "k" * 200):
        assert page.request.put(f"{people.url}/sessions/{LONG}/state/{key}", data=["v" * 300]).ok
    page.keyboard.press("i")
    page.get_by_role("tab", name="State").click()
    changes = page.locator("ul.changes code")
    expect(changes).to_have_text(["k" * 200, "cart"])
    assert changes.last.evaluate("it => it.getClientRects().length === 1 && it.scrollHeight < 24")
    assert page.locator("ul.changes").evaluate("it => it.scrollWidth <= it.clientWidth")


# --- the page itself -------------------------------------------------------------------------------------------------


def test_everything_by_keys(people: People) -> None:
    page = people.person()
    expect(rows(page).first).to_be_visible()
    for key in "jjk":
        page.keyboard.press(key)
    expect(page.locator(".row.current")).to_have_attribute("aria-posinset", "2")
    current = page.get_by_role("listbox").get_attribute("aria-activedescendant")
    assert page.locator(".row.current").get_attribute("id") == current
    page.keyboard.press("Enter")
    expect(page.locator(".row[aria-selected=true]")).to_have_attribute("aria-posinset", "2")
    page.keyboard.press("c")
    expect(page.get_by_label("Message", exact=True)).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("i")
    expect(page.get_by_role("tablist")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("tablist")).to_be_hidden()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_contain_text("down and up the list")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_text("Choose a conversation")).to_be_visible()


def test_the_focus_is_where_the_next_key_is_expected(people: People, place: Place) -> None:
    page = people.person()
    begin(page, "Where am I?")
    expect(page.locator(".end")).to_be_visible()
    log = page.locator(".log")
    log.focus()
    first = here(page)
    page.keyboard.press("f")
    page.wait_for_url(lambda url: first not in url)
    expect(log).to_be_focused()
    page.keyboard.press("#")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("listbox")).to_be_focused()
    them = People(place.browser, place.locked.url)
    them.expected = ("401",)
    page = them.person()
    page.get_by_label("API key").fill(place.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("listbox")).to_be_focused()
    them.leave()


def test_the_focus_goes_along_on_a_narrow_screen(people: People) -> None:
    page = people.person(size=NARROW)
    expect(rows(page).first).to_be_visible()
    page.get_by_role("listbox").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".log")).to_be_focused()
    page.keyboard.press("i")
    expect(page.get_by_role("tab", name="Runs")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Details")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("listbox")).to_be_focused()


def test_light_and_dark(people: People) -> None:
    page = people.person(dark=True)
    shade = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(shade)
    page.keyboard.press("t")
    light = page.evaluate(shade)
    assert dark != light
    page.reload()
    assert page.evaluate(shade) == light
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(shade) == dark


def test_a_narrow_screen_shows_one_thing(people: People) -> None:
    page = people.person(size=NARROW)
    rows(page).nth(2).click()
    expect(page.get_by_label("Message", exact=True)).to_be_visible()
    expect(page.get_by_role("listbox")).to_be_hidden()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW[0]
    page.get_by_role("button", name="Details").click()
    expect(page.get_by_role("tablist")).to_be_visible()
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("tablist")).to_be_hidden()
    rows(page).nth(1).click()
    expect(page.get_by_label("Message", exact=True)).to_be_visible()
    expect(page.get_by_role("tablist")).to_be_hidden()


@pytest.mark.parametrize("width", [320, 390, 600])
def test_what_lies_behind_fills_a_narrow_screen(people: People, width: int) -> None:
    page = people.person(f"#/s/{LONG}", size=(width, 640))
    page.get_by_role("button", name="Details").click()
    box = page.locator(".panel").bounding_box()
    assert box is not None
    assert (box["x"], box["width"]) == (0, width)
    assert page.locator(".panel nav").evaluate("it => it.scrollWidth <= it.clientWidth")
    page.get_by_role("tab", name="Info").click()
    expect(page.locator(".facts")).to_be_visible()
    assert page.locator(".panel .body").evaluate("it => it.scrollWidth <= it.clientWidth")


def test_what_is_beside_a_conversation_goes_and_comes_with_it(people: People) -> None:
    page = people.person()
    rows(page).first.click()
    page.get_by_role("button", name="Details").click()
    expect(page.get_by_role("tablist")).to_be_visible()
    page.get_by_role("button", name="New", exact=True).click()
    expect(page.get_by_text("Which agent?")).to_be_visible()
    expect(page.get_by_role("tablist")).to_be_hidden()
    rows(page).nth(1).click()
    expect(page.get_by_role("tablist")).to_be_visible()
    page.keyboard.press("i")
    rows(page).first.click()
    expect(page.get_by_role("tablist")).to_be_hidden()


@pytest.mark.parametrize("address", ["#/s/%", "#/s/", "#/s/..", "#/s/%2E", "#/s/%E0%A4%A"])
def test_an_address_that_names_nothing_shows_the_list(people: People, address: str) -> None:
    page = people.person(address)
    expect(page.get_by_text("This address names no conversation")).to_be_visible()
    expect(page.get_by_text("Choose a conversation")).to_be_visible()
    expect(rows(page).first).to_be_visible()


def test_hostile_content_does_nothing(people: People) -> None:
    page = people.person(f"#/s/{HOSTILE}", size=NARROW)
    expect(page.locator("main").get_by_text("The end of it.")).to_be_visible()
    for summary in page.locator(".turns summary").all():
        summary.click()
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("main :is(script, style, iframe, object, [onerror], [onload]), main img").count() == 0
    assert {it.get_attribute("href") for it in page.locator("main a").all()} == {"https://example.org/x"}
    assert page.evaluate("() => document.documentElement.scrollWidth") <= NARROW[0]
    assert not re.search("[\u0000\u0007\u001b\u202e]", page.locator("body").inner_text())
    assert "\\u{202e}" in page.locator(".call").inner_text()


SAID = {
    "# A *title* #": "<h3>A <em>title</em></h3>",
    "one\ntwo  \nthree": "<p>one\ntwo<br>three</p>",
    "snake_case_name and 2*3*4": "<p>snake_case_name and 2*3*4</p>",
    "**bold *and* more** ~~gone~~": "<p><strong>bold <em>and</em> more</strong> <s>gone</s></p>",
    "`` a ` b `` and \\*no\\*": "<p><code>a ` b</code> and *no*</p>",
    "- a\n  - b\n- c\n\n1. d": "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul><ol><li>d</li></ol>",
    "> a\n> b": "<blockquote><p>a\nb</p></blockquote>",
    "a\n\n---\nb": "<p>a</p><hr><p>b</p>",
    "[x](https://a.org/b_c_d)": '<p><a href="https://a.org/b_c_d">x</a></p>',
    "see https://a.org/x.": '<p>see <a href="https://a.org/x">https://a.org/x</a>.</p>',
    "[x](javascript:alert(1))": "<p>[x](javascript:alert(1))</p>",
    "![x](https://a.org/x.png)": '<p><a href="https://a.org/x.png">x</a></p>',
    "<b>x</b> &amp;": "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp;</p>",
    "| a | b |\n|---|---|\n| 1 | `2` |": (
        "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td><code>2</code></td></tr></tbody></table>"
    ),
}
_RENDER = """async (texts) => {
    const { markdown } = await import("/inbox/static/markdown.js");
    return texts.map((text) => {
        const node = markdown(text);
        for (const it of node.querySelectorAll("*")) {
            for (const name of ["dir", "rel", "target", "title", "tabindex"]) it.removeAttribute(name);
        }
        for (const it of node.querySelectorAll("div.table")) it.replaceWith(...it.childNodes);
        return node.innerHTML;
    });
}"""
_TIME = """async (texts) => {
    const { markdown } = await import("/inbox/static/markdown.js");
    return texts.map((text) => {
        const began = performance.now();
        markdown(text);
        return performance.now() - began;
    });
}"""


def test_answers_are_markdown(people: People) -> None:
    page = people.person()
    assert dict(zip(SAID, page.evaluate(_RENDER, list(SAID)), strict=True)) == SAID


def test_no_text_takes_long_to_draw(people: People) -> None:
    page = people.person()
    pieces = (
        "*",
        "_",
        "**a ",
        "__a ",
        "`",
        "` ",
        "``` ",
        "[",
        "[a](",
        "](",
        "<",
        "~~a",
        "> ",
        "- ",
        "|",
        "\\",
        "https://",
        "1. a\n",
        "- a\n  ",
        "|a|\n|-|\n",
    )
    texts = [(piece * 60_000)[:60_000] for piece in pieces]
    took = dict(zip(pieces, page.evaluate(_TIME, texts), strict=True))
    assert {piece: ms for piece, ms in took.items() if ms > 1_500} == {}


def test_thousands_of_conversations_scroll(people: People) -> None:
    page = people.person()
    expect(rows(page).first).to_be_visible()
    page.locator(".list").evaluate("""async (list) => {
        for (let last = -1; last !== list.scrollHeight; ) {
            last = list.scrollHeight;
            list.scrollTop = last;
            for (let waited = 0; waited < 60 && list.scrollHeight === last; waited++) await new Promise(requestAnimationFrame);
        }
    }""")
    expect(page.get_by_text("Number 0", exact=True)).to_be_visible()
    assert int(rows(page).last.get_attribute("aria-setsize") or 0) >= MANY
    assert page.evaluate("() => document.querySelectorAll('*').length") < MOST_NODES


def test_results_are_shown_with_their_calls_however_many(people: People) -> None:
    page = people.person(f"#/s/{CALLS}")
    expect(page.locator(".call .gave")).to_have_count(250)
    expect(page.get_by_text("Result of")).to_have_count(0)
    expect(page.locator(".call .state").last).to_have_text("no result")


def test_a_conversation_without_a_name_is_called_by_its_beginning(people: People) -> None:
    page = people.person(f"#/s/{LONG}")
    title = page.locator(".bar h1")
    expect(title).to_have_text("Question 0?")
    page.keyboard.press("#")
    expect(page.get_by_role("dialog")).to_contain_text("“Question 0?”")
    page.keyboard.press("Escape")
    for name in ("A long one", ""):
        page.keyboard.press("r")
        page.get_by_role("textbox", name="Name").fill(name)
        page.keyboard.press("Enter")
        expect(title).to_have_text(name or "Question 0?")


def test_older_messages_come_when_they_are_scrolled_to(people: People) -> None:
    page = people.person(f"#/s/{LONG}")
    expect(page.locator("main").get_by_text("Answer 199.")).to_be_visible()
    expect(page.locator(".log").get_by_text("Question 0?")).to_have_count(0)
    page.locator(".log").evaluate("""async (log) => {
        while (!document.querySelector(".begin")) {
            log.scrollTop = 0;
            await new Promise(requestAnimationFrame);
        }
    }""")
    assert page.locator(".turn.user .typed").all_text_contents() == [f"Question {number}?" for number in range(200)]


def test_it_goes_on_after_the_server_was_away(people: People, place: Place) -> None:
    people.expected = ("ERR_", "Failed to load")
    page = people.person()
    begin(page, "Before")
    expect(page.locator(".end")).to_have_count(1)
    place.desk.stop()
    expect(page.get_by_text("offline", exact=True)).to_be_visible()
    expect(page.get_by_text("The connection is lost")).to_be_visible()
    say(page, "Meanwhile")
    expect(page.get_by_text("sending")).to_be_visible()
    place.desk.start()
    place.desk.wait()
    expect(page.locator(".turn.agent").last).to_contain_text("You said: Meanwhile")
    expect(page.get_by_text("offline", exact=True)).to_have_count(0)
    assert page.locator(".turn.user .typed").all_text_contents() == ["Before", "Meanwhile"]


def test_a_server_that_wants_a_key_gets_one(place: Place) -> None:
    them = People(place.browser, place.locked.url)
    them.expected = ("401",)
    page = them.person()
    for text in ("ключ", "hf key"):
        page.get_by_label("API key").fill(text)
        page.keyboard.press("Enter")
        expect(page.get_by_text("This is no key")).to_be_visible()
    page.evaluate("() => sessionStorage.setItem('holdfast.key', 'ключ')")
    page.reload()
    page.get_by_label("API key").fill("hf_wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The key was not accepted")).to_be_visible()
    page.get_by_label("API key").fill(place.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(rows(page)).to_have_count(1)
    begin(page, "With a key")
    expect(page.locator(".turn.agent:not(.live)")).to_contain_text("You said: With a key")
    page.reload()
    expect(rows(page).first).to_contain_text("With a key")
    them.leave()
