"""AgentOS with one agent whose model answers at once; run by a Python that has agno: `agno_server.py DATABASE PAST PORT`."""

# pyright: basic
# agno is not installed where types are checked.

import sys

import uvicorn
from agno.agent import Agent  # type: ignore[import-not-found]
from agno.db.sqlite import SqliteDb  # type: ignore[import-not-found]
from agno.models.base import Model  # type: ignore[import-not-found]
from agno.models.response import ModelResponse  # type: ignore[import-not-found]
from agno.os import AgentOS  # type: ignore[import-not-found]


class Instant(Model):
    """Answers at once."""

    def __init__(self):
        super().__init__(id="instant", name="instant", provider="none")

    def invoke(self, *args, **kwargs):
        return ModelResponse(role="assistant", content="a" * 800)

    async def ainvoke(self, *args, **kwargs):
        return self.invoke()

    def invoke_stream(self, *args, **kwargs):
        yield self.invoke()

    async def ainvoke_stream(self, *args, **kwargs):
        yield self.invoke()

    def _parse_provider_response(self, response, **kwargs):
        return response

    def _parse_provider_response_delta(self, response):
        return response


def main(database: str, past: str, port: str) -> None:
    agent = Agent(
        id="desk",
        name="desk",
        model=Instant(),
        db=SqliteDb(db_file=database),
        add_history_to_context=True,
        num_history_runs=10,
        telemetry=False,
    )
    for _ in range(int(past)):
        agent.run("q" * 200, session_id="s", user_id="u")
    print("filled", flush=True)
    uvicorn.run(AgentOS(agents=[agent], telemetry=False).get_app(), port=int(port), log_level="error", access_log=False)


main(*sys.argv[1:])
