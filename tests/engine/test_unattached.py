"""Sessions that belong to no store yet: made by hand, from a dict, taken by a store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdfast import (
    Session,
    SessionNotFound,
    Store,
    UsageError,
    user,
)

from .conftest import VALUES, reopened, texts

# --- sessions of no store ---


async def test_a_session_of_no_store_has_state_and_says_what_to_do_for_the_rest() -> None:
    session = Session(id="custom-session-id", user_id="ada")
    session.set("topic", "maths")
    assert (session.get("topic"), session.version, session.name, session.metadata) == ("maths", 0, None, {})
    for asked in (
        session.append(user("hi")),
        session.commit(),
        session.get_messages(),
        session.delete(),
        session.fork(),
        session.refresh(),
        session.runs(),
        session.rename("x"),
        session.state.increment("n"),
    ):
        with pytest.raises(UsageError, match=r"custom-session-id.*store\.session"):
            await asked
    with pytest.raises(UsageError, match=r"store\.session"):
        async with session.run(user("hi")):
            pass
    with pytest.raises(SessionNotFound, match="custom-session-id"):
        session.info.id  # noqa: B018


async def test_a_store_takes_a_session_with_what_is_staged_on_it(store: Store) -> None:
    known = await store.session("s")
    known.set("theirs", 1)
    await known.append(user("hi"))
    session = Session(id="s", user_id="ada")
    session.set("mine", [1])
    session.service_session_id = "t1"
    taken = await store.session(session)
    assert taken is session
    assert session.get_all_keys() == ["mine", "theirs"]
    await session.commit()
    later = await store.get("s", user_id="ada")
    assert later is not None
    assert (dict(later.state), later.service_session_id) == ({"mine": [1], "theirs": 1}, "t1")
    assert await texts(later) == ["hi"]


async def test_a_dict_of_a_session_goes_through_json(store: Store) -> None:
    session = Session(id="s", user_id="ada")
    session.service_session_id = "t1"
    for key, value in VALUES.items():
        session.set(key, value)
    data = json.loads(json.dumps(session.to_dict(), allow_nan=False))
    assert {key: data[key] for key in ("type", "session_id", "user_id", "service_session_id")} == {
        "type": "session",
        "session_id": "s",
        "user_id": "ada",
        "service_session_id": "t1",
    }
    again = await store.session(Session.from_dict(data))
    await again.commit()
    later = await reopened(again, store)
    assert (later.id, later.user_id, later.service_session_id) == ("s", "ada", "t1")
    assert dict(later.state) == VALUES
    assert {key: type(value) for key, value in later.state.items()} == {key: type(value) for key, value in VALUES.items()}
    assert later.to_dict() == session.to_dict()


@pytest.mark.parametrize("data", [{}, {"type": "message", "session_id": "s"}, {"type": "session"}, {"type": "session", "session_id": ""}])
def test_what_is_no_sessions_dict_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="session"):
        Session.from_dict(data)
