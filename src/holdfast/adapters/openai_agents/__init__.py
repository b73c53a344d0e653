"""OpenAI Agents SDK: its sessions, kept by a Holdfast store, and its agents as agents of ours.

    session = HoldfastSession("ada-1", "sqlite:///chat.db")
    result = await Runner.run(agent, "Where is my order?", session=session)

    agent = holdfast.Agent(AgentsEngine(sdk_agent), store="sqlite:///chat.db")
    output = await agent.run("Where is my order?", session_id="ada-1")

Each item is one message of the session: its JSON verbatim for the SDK, and beside it the neutral parts every other reader understands.
Messages that somebody else wrote become items of the Responses API on the way out.
"""

from ...errors import MissingExtra

try:
    import agents as _agents  # noqa: F401  # pyright: ignore[reportUnusedImport]  # only whether it is there
except ImportError as error:
    raise MissingExtra('the OpenAI Agents SDK is not installed: pip install "holdfast[openai-agents]"') from error

from .engine import AgentsEngine
from .session import HoldfastSession

__all__ = ["AgentsEngine", "HoldfastSession"]
