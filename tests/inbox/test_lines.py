"""How the last run of a session ended, as a list shows it."""

from holdfast import Session, Store, user
from holdfast.server.lines import Status, lines


async def status(store: Store, session: Session) -> Status:
    await session.refresh()
    return (await lines(store, [session.info], None))[0][1]


async def broken_off(store: Store) -> Session:
    """A session whose newest run has no end, and nobody who drives it."""
    session = await store.session()
    async with session.run(user("Where did it break?"), agent="desk"):
        told = [line async for line in store.export(session.id)]
        assert await status(store, session) == "running"
    assert await status(store, session) == "idle"
    return await store.import_(told, session_id="broken")


async def test_a_run_that_nobody_drives_is_told_as_broken_off() -> None:
    async with Store.open("memory://", as_admin=True) as store:
        session = await broken_off(store)
        assert await status(store, session) == "interrupted"
        async with session.run(user("Again"), agent="desk"):
            assert await status(store, session) == "running"
        assert await status(store, session) == "idle"


async def test_a_copy_and_what_was_rewound_were_not_broken_off() -> None:
    async with Store.open("memory://", as_admin=True) as store:
        session = await broken_off(store)
        assert await status(store, await session.fork()) == "idle"
        async with session.run(user("Again"), agent="desk"):
            pass
        (first, *_) = await session.entries(kinds=("message",))
        await session.rewind(to=first.seq)
        assert await status(store, session) == "idle"
