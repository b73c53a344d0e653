"""Search in the past: what a search costs among 10,000 messages, and what it finds, by words, by meaning and by both.

The questions are about things that were said once, in other words than the question's, each beside a message that has its words and another
meaning; or about a name or a number, as it was written.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable
from itertools import product
from pathlib import Path
from typing import TypeAlias

import msgspec

from holdfast import Store, assistant, user
from holdfast.recall import MiniLM, Recall, Wanted

USER = "ada"
REPEATS = 3
MINILM = MiniLM()
Search: TypeAlias = Callable[[str], Awaitable[list[str]]]
"""The texts that are found for a question, the best first."""

PARAPHRASED = (
    (
        "I break out in hives whenever I eat peanuts.",
        "Which foods am I allergic to?",
        "The allergic reactions in the lab report were all negative.",
    ),
    ("We moved to Hamburg last spring.", "What city do I live in?", "The city council will live stream its meeting."),
    (
        "My daughter practises the cello every evening.",
        "What instrument does my child play?",
        "The child lock on the instrument panel is broken.",
    ),
    (
        "Our server fell over because the disk was full.",
        "Why did the outage happen?",
        "The outage page template happens to use the wrong font.",
    ),
    (
        "I'd rather get an e-mail than a call.",
        "How do I prefer to be contacted?",
        "Prefer the contact form over the chat widget in the footer.",
    ),
    ("The boss signed off on twelve thousand for the redesign.", "What is our budget?", "The budget airline lost our suitcase again."),
    ("I quit smoking two years ago.", "Do I use tobacco?", "Tobacco brown is the colour to use for the sofa."),
    ("My flight lands at half past nine in the evening.", "When do I arrive?", "Parcels that arrive late go back to the depot."),
    ("Our dog is a twelve year old dachshund.", "What breed is my pet?", "The new breed of pet cameras records in the dark."),
    ("I stopped eating meat in January.", "Am I a vegetarian?", "The vegetarian cookbook is out of print."),
    (
        "We write everything in Rust nowadays.",
        "Which programming language does my team use?",
        "The team building event is a programming contest.",
    ),
    ("My wedding was on a rainy day in June.", "When did I get married?", "Marie got married columns in the table merged by mistake."),
    ("Please keep answers short, I read on my phone.", "How long should replies be?", "The reply-all thread is too long already."),
    ("I can't hear well in my left ear.", "Do I have a disability?", "The disability insurance form has four pages."),
    ("The landlord raises our rent in October.", "Are my housing costs going up?", "The pump housing costs forty euros."),
    ("I report to Ingrid since the reorganisation.", "Who is my manager?", "The package manager could not resolve the lock file."),
    ("My knee hurts after ten minutes of jogging.", "What injury do I have?", "The injury time goal decided the match."),
    (
        "We never deploy on Fridays.",
        "Are releases allowed at the end of the week?",
        "The end of the week release of the album was delayed.",
    ),
    ("My brother studies medicine in Prague.", "What does my sibling do?", "Sibling nodes do not inherit the style."),
    ("I dream of seeing the northern lights.", "Where would I like to travel?", "The travel adapter would not fit the socket."),
)
"""What was said, what is asked, and what has words of the question in it."""

EXACT = (
    ("The order number is A-1007-X.", "A-1007-X", ("The order number is A-1007-Y.", "The order number is A-1017-X.")),
    ("Ticket INC48213 is about the printer.", "INC48213", ("Ticket INC48231 is about the printer.", "Ticket INC48214 is about a mouse.")),
    ("Mrs Przybylski called back.", "Przybylski", ("Mrs Przybysz called back.", "Mrs Przybylka from accounting called.")),
    ("The build fails with ERR_QUOTA_EXCEEDED.", "ERR_QUOTA_EXCEEDED", ("It fails with ERR_QUOTA_MISSING.", "It says ERR_TIME_EXCEEDED.")),
    ("Use the branch hotfix/zebra for this.", "hotfix/zebra", ("Use the branch hotfix/cobra for this.", "Use feature/zebra for this.")),
    ("The serial number is QX77-0042.", "QX77-0042", ("The serial number is QX77-0024.", "The serial number is QX70-0042.")),
    ("We pay with the card that ends in 4417.", "card 4417", ("We pay with the card that ends in 4471.", "My card ends in 1447.")),
    ("Flight LH2078 was cancelled.", "what about LH2078?", ("Flight LH2087 was cancelled.", "Flight LX2078 is on time.")),
    ("The meeting room is called Wombat.", "wombat room", ("The meeting room is called Koala.", "The meeting room is called Numbat.")),
    ("The invoice RE-2044 is still open.", "invoice RE-2044", ("The invoice RE-2404 is still open.", "The invoice RE-2040 is paid.")),
)
"""What was said, what is looked for, and what looks like it."""

WHO = (
    "The supplier",
    "A customer from Leipzig",
    "The night shift",
    "Our partner",
    "The new colleague",
    "Support",
    "The warehouse",
    "Sales",
)
DID = ("asked about", "sent us", "complained about", "confirmed", "forgot", "paid for", "is waiting for", "wants to change")
WHAT = (
    "a blue kettle",
    "the quarterly report",
    "two garden chairs",
    "the login page",
    "a spare part",
    "the contract",
    "a box of screws",
    "the shipping label",
    "the price list",
    "a broken lamp",
    "the training video",
    "the new keyboard",
    "the backup",
)
WHEN = (
    "yesterday",
    "on Monday",
    "before lunch",
    "in the morning call",
    "two weeks ago",
    "after the holidays",
    "by letter",
    "again",
    "for the third time",
    "without saying why",
    "as agreed",
    "in the chat",
    "last night",
)


class Found(msgspec.Struct, frozen=True):
    """How many of the questions have their answer first, and among the first five."""

    first: int
    five: int
    asked: int

    def __str__(self) -> str:
        return f"{self.first} / {self.five} of {self.asked}"


class Measured(msgspec.Struct, frozen=True):
    """One kind of search. Seconds of a search at the median and at the 95th percentile; what it finds."""

    median: float
    slow: float
    paraphrased: Found
    beside: Found
    exact: Found


class Indexed(msgspec.Struct, frozen=True):
    """Seconds to index everything, and the bytes of the file."""

    seconds: float
    size: int


def filler(count: int) -> list[str]:
    """Sentences that are all different."""
    made = [f"{who} {did} {what} {when}." for who, what, did, when in product(WHO, WHAT, DID, WHEN)]
    return made[:: max(1, len(made) // count)][:count]


async def filled(count: int, *, hard: bool) -> Store:
    """A store with `count` messages of one user, in sessions of twenty, the answers among them; `hard`: and what looks like them."""
    answers = [(fact, (other,)) for fact, _, other in PARAPHRASED] + [(fact, others) for fact, _, others in EXACT]
    targets = [line for fact, others in answers for line in (fact, *(others if hard else ()))]
    lines = filler(count - len(targets))
    step = max(1, len(lines) // len(targets))
    for number, line in enumerate(targets):
        lines.insert(number * (step + 1), line)
    store = Store.open("memory://")
    for start in range(0, len(lines), 20):
        session = await store.session(f"s{start}", user_id=USER)
        await session.append(*(user(line) if n % 2 == 0 else assistant(line) for n, line in enumerate(lines[start : start + 20])))
    return store


async def measure(path: Path, count: int) -> tuple[dict[str, Measured], dict[str, Indexed]]:
    """By kind of search what it costs and finds; by kind of index what it costs to make."""
    await MINILM(["load the model"])
    easy, hard = await filled(count, hard=False), await filled(count, hard=True)
    found: dict[str, Measured] = {}
    made: dict[str, Indexed] = {}
    for name, embed in (("words", None), ("words and meaning", MINILM)):
        file = path / f"{name}.db"
        async with Recall(hard, f"sqlite:///{file}", embed) as recall, Recall(easy, "memory://", embed) as other:
            start = time.perf_counter()
            await recall.update()
            made[name] = Indexed(time.perf_counter() - start, file.stat().st_size)
            await other.update()
            if embed is not None:
                found["meaning"] = await measured(by_meaning(recall), by_meaning(other))
            found[name] = await measured(by_both(recall), by_both(other))
    return found, made


async def measured(search: Search, easy: Search) -> Measured:
    paraphrased = [(fact, question) for fact, question, _ in PARAPHRASED]
    exact = [(fact, question) for fact, question, _ in EXACT]
    times = sorted([await timed(search, question) for _ in range(REPEATS) for _, question in paraphrased])
    slow = times[int(0.95 * len(times))]
    return Measured(
        statistics.median(times), slow, await answers(easy, paraphrased), await answers(search, paraphrased), await answers(search, exact)
    )


def by_both(recall: Recall) -> Search:
    """As people search: with what the recall has."""

    async def search(question: str) -> list[str]:
        return [hit.text for hit in await recall.search(question, user_id=USER, limit=5)]

    return search


def by_meaning(recall: Recall) -> Search:
    """Without the words: straight at the index."""

    async def search(question: str) -> list[str]:
        (vector,) = await MINILM([question])
        *_, ranking = await recall.index.search(Wanted(tenant="default", user_id=USER, vector=vector, limit=5))
        return [it.document.text for it in ranking]

    return search


async def answers(search: Search, questions: list[tuple[str, str]]) -> Found:
    places: list[int] = []
    for fact, question in questions:
        texts = await search(question)
        places.append(texts.index(fact) if fact in texts else 5)
    return Found(sum(place == 0 for place in places), sum(place < 5 for place in places), len(places))


async def timed(search: Search, question: str) -> float:
    start = time.perf_counter()
    await search(question)
    return time.perf_counter() - start
