"""Ownership: a session with an owner does not exist for anybody else."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from ...backend import Backend, ClaimAct, Erase, Key
from ...errors import HoldfastError, SessionNotFound
from ..suite import Opener, clause
from ..tools import (
    EVERYTHING,
    both,
    content,
    created,
    creating,
    fresh,
    head_of,
    notes,
    opened,
    read,
    refused,
    settled,
    stored,
    writing,
    wrote,
)

_DEEDS: tuple[dict[str, Any], ...] = (
    {"entries": notes("theirs")},
    {"claim": ClaimAct("take", "theirs")},
    {"erase": Erase("content", 1)},
    {"erase": Erase("session")},
    {},
)


@clause()
async def a_session_of_a_user_refuses_others(open: Opener) -> None:
    """Another user, and a caller that names none, get `SessionNotFound` for whatever they commit, even with the right version."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, user_id="ada", entries=notes("hers"))
        before = content(await read(backend, key))
        for user in ("bob", None, "Ada", "ada "):
            for parts in _DEEDS:
                with refused(SessionNotFound):
                    await backend.commit(key, writing(head, user_id=user, **parts))
                with refused(SessionNotFound):
                    await backend.commit(key, creating(user_id=user, **parts))
        assert content(await read(backend, key)) == before


@clause()
async def a_refusal_tells_nothing(open: Opener) -> None:
    """A caller learns no more of another user's session than of one that isn't there."""
    async with opened(open) as backend:
        key, nowhere = fresh(), fresh()
        await created(backend, key, user_id="ada")
        words = [await _words(backend.commit(it, creating(create=None, user_id="bob", expect=99))) for it in (key, nowhere)]
        assert words[0].replace(key.tenant, nowhere.tenant) == words[1]


async def _words(attempt: Awaitable[object]) -> str:
    try:
        await attempt
    except HoldfastError as error:
        return f"{type(error).__name__}: {error}"
    return ""


@clause()
async def an_admin_may(open: Opener) -> None:
    """Without the owner check a commit goes through, and the owner stays."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key, user_id="ada")
        for user in (None, "bob"):
            head = await wrote(backend, key, head, user_id=user, check_owner=False, entries=notes("x"))
        assert (await read(backend, key)).head.user_id == "ada"


@clause()
async def the_first_user_adopts(open: Opener) -> None:
    """A session without an owner becomes that of the first user that commits; then it is theirs alone."""
    async with opened(open) as backend:
        key = fresh()
        head = await created(backend, key)
        head = await wrote(backend, key, head, entries=notes("nobody's"))
        assert head.user_id is None
        head = await wrote(backend, key, head, user_id="ada", entries=notes("hers"))
        assert (await read(backend, key)).head.user_id == "ada"
        with refused(SessionNotFound):
            await backend.commit(key, writing(head, entries=notes("nobody's")))


@clause()
async def of_many_adopters_one_wins(open: Opener) -> None:
    """Of ten users that name themselves at once one gets the session; it does not exist for the others."""
    async with both(open) as backends:
        key = fresh()
        head = await created(backends[0], key)
        tries = [backends[n % 2].commit(key, writing(head, base=0, user_id=f"user-{n}", entries=notes(str(n)))) for n in range(10)]
        won, lost = await settled(tries, SessionNotFound)
        assert (len(won), len(lost)) == (1, 9)
        found = await read(backends[1], key)
        assert found.head == head_of(won[0])
        assert [f"user-{entry.body.decode()}" for entry in found.entries or []] == [found.head.user_id]


@clause()
async def get_or_create_of_another_s_session_creates_nothing(open: Opener) -> None:
    """Through a store, another user's session is refused, not seen, not deleted; for its owner and an admin all is there."""
    key = fresh("s")
    async with stored(open, key) as store, stored(open, key, as_admin=True) as admin:
        await (await store.session("s", user_id="ada")).append()
        before = await read(store.backend, key, EVERYTHING)
        for user in ("bob", None):
            with refused(SessionNotFound):
                await store.session("s", user_id=user)
            assert not await store.has("s", user_id=user)
            assert not await store.delete("s", user_id=user)
        assert await read(store.backend, key, EVERYTHING) == before
        assert await _sees(admin.backend, key)
        assert await admin.has("s")
        assert await store.delete("s", user_id="ada")


async def _sees(backend: Backend, key: Key) -> bool:
    return await backend.read(key, EVERYTHING) is not None
