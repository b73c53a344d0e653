"""The scripted model server, asked by the real OpenAI clients."""

import json
import threading
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request as Fetch
from urllib.request import urlopen

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from holdfast.testing.model_server import MODEL, Answer, Call, ModelServer, Request, Rule, Script, call

TOOLS = (Call("find_order", {"order_id": "7"}), Call("find_order", {"order_id": "8"}))


class Asked:
    """A server and both clients of it, closed in order."""

    def __init__(self, answers: Script | Rule) -> None:
        self.server = ModelServer(answers)

    def __enter__(self) -> "Asked":
        self.server.__enter__()
        self.client = OpenAI(base_url=self.server.base_url, api_key="secret-key", max_retries=0)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.server.close()

    def say(self, text: str = "hi") -> str:
        return self.client.responses.create(model="gpt-x", input=text).output_text


@pytest.fixture
def one() -> Iterator[Asked]:
    with Asked(["hello"]) as asked:
        yield asked


def test_an_answer_names_the_scripted_model_and_its_header_says_so(one: Asked) -> None:
    raw = one.client.responses.with_raw_response.create(model="gpt-x", input="hi")
    assert raw.parse().model == MODEL
    assert raw.headers["x-holdfast-scripted"]


def test_responses(one: Asked) -> None:
    response = one.client.responses.create(model="gpt-x", input="hi", instructions="be brief")
    assert (response.output_text, response.status, response.instructions) == ("hello", "completed", "be brief")
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_responses_with_tool_calls() -> None:
    with Asked([Answer(text="looking", calls=TOOLS)]) as asked:
        output = asked.client.responses.create(model="gpt-x", input="hi").output
        calls = [item for item in output if item.type == "function_call"]
        assert [item.type for item in output] == ["message", "function_call", "function_call"]
        assert [item.arguments for item in calls] == ['{"order_id": "7"}', '{"order_id": "8"}']
        assert len({item.call_id for item in calls} | {item.id for item in output}) == 5


def test_responses_streamed() -> None:
    text = "a longer answer in more than one piece"
    with Asked([Answer(text=text, calls=TOOLS)]) as asked:
        events = list(asked.client.responses.create(model="gpt-x", input="hi", stream=True))
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert (said, arguments) == (text, '{"order_id": "7"}{"order_id": "8"}')
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == text


def test_the_streaming_helper_of_the_client_understands_the_events() -> None:
    with Asked([Answer(text="hello", calls=TOOLS)]) as asked, asked.client.responses.stream(model="gpt-x", input="hi") as stream:
        stream.until_done()
        assert stream.get_final_response().output_text == "hello"


def test_chat_completions() -> None:
    with Asked([Answer(text="looking", calls=TOOLS), "done"]) as asked:
        ask = asked.client.chat.completions
        first = ask.create(model="gpt-x", messages=[{"role": "user", "content": "hi"}]).choices[0]
        assert (first.finish_reason, first.message.content) == ("tool_calls", "looking")
        assert [it.function.arguments for it in first.message.tool_calls or () if it.type == "function"] == [
            '{"order_id": "7"}',
            '{"order_id": "8"}',
        ]
        second = ask.create(model="gpt-x", messages=[{"role": "user", "content": "hi"}])
        assert (second.choices[0].finish_reason, second.choices[0].message.content, second.model) == ("stop", "done", MODEL)


def test_chat_completions_streamed() -> None:
    text = "a longer answer in more than one piece"
    with Asked([Answer(text=text, calls=TOOLS)]) as asked:
        chunks = list(
            asked.client.chat.completions.create(
                model="gpt-x", messages=[{"role": "user", "content": "hi"}], stream=True, stream_options={"include_usage": True}
            )
        )
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    arguments = ["", ""]
    for piece in (piece for delta in deltas for piece in delta.tool_calls or ()):
        arguments[piece.index] += (piece.function and piece.function.arguments) or ""
    assert "".join(delta.content or "" for delta in deltas) == text
    assert arguments == ['{"order_id": "7"}', '{"order_id": "8"}']
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage is not None


async def test_the_asynchronous_client() -> None:
    with ModelServer(["one", call("find_order", order_id="7"), "three", "four"]) as server:
        async with AsyncOpenAI(base_url=server.base_url, api_key="none", max_retries=0) as client:
            assert (await client.responses.create(model="gpt-x", input="hi")).output_text == "one"
            events = [event async for event in await client.responses.create(model="gpt-x", input="hi", stream=True)]
            assert [event.item.type for event in events if event.type == "response.output_item.done"] == ["function_call"]
            chat = await client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "hi"}])
            assert chat.choices[0].message.content == "three"
            chunks = await client.chat.completions.create(model="gpt-x", messages=[{"role": "user", "content": "hi"}], stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "four"


def test_models(one: Asked) -> None:
    assert [model.id for model in one.client.models.list()] == [MODEL]
    assert one.server.requests == []


def test_a_rule_sees_the_request() -> None:
    def rule(request: Request) -> str:
        return f"{request.number}: {request.input[-1]['content']}"

    with Asked(rule) as asked:
        assert [asked.say("a"), asked.say("b")] == ["1: a", "2: b"]


def test_requests_are_recorded_without_credentials(one: Asked) -> None:
    one.say("what is this?")
    (request,) = one.server.requests
    assert (request.number, request.method, request.path, request.body["model"]) == (1, "POST", "/v1/responses", "gpt-x")
    assert request.input == [{"role": "user", "content": "what is this?"}]
    assert not request.streamed
    assert "secret-key" not in repr(request)


def test_an_error_status_is_the_clients_error() -> None:
    with Asked([Answer(status=429, text="too many"), Answer(status=500), "fine"]) as asked:
        with pytest.raises(openai.RateLimitError, match="too many"):
            asked.say()
        with pytest.raises(openai.InternalServerError):
            asked.say()
        assert asked.say() == "fine"


def test_a_script_that_is_over_says_so(one: Asked) -> None:
    one.say()
    with pytest.raises(openai.BadRequestError, match=r"script of this ModelServer is over.*request 2"):
        one.say()


def test_a_rule_that_fails_is_told_to_the_client() -> None:
    def rule(request: Request) -> str:
        raise KeyError("order")

    with Asked(rule) as asked, pytest.raises(openai.BadRequestError, match=r"request 1: KeyError"):
        asked.say()


def test_a_raw_body_is_sent_as_it_is() -> None:
    with Asked([Answer(raw={"id": "resp_1", "object": "response", "model": "relayed", "output": []})]) as asked:
        assert asked.client.responses.create(model="gpt-x", input="hi").model == "relayed"


def test_an_answer_is_held_until_it_is_released() -> None:
    hold = threading.Event()
    said: list[str] = []
    with Asked([Answer(text="at last", hold=hold)]) as asked:
        thread = threading.Thread(target=lambda: said.append(asked.say()))
        thread.start()
        assert asked.server.wait_for(1).input[0]["content"] == "hi"
        assert said == []
        hold.set()
        thread.join()
    assert said == ["at last"]


def test_closing_breaks_what_is_held() -> None:
    errors: list[Exception] = []

    def ask() -> None:
        try:
            asked.say()
        except openai.APIConnectionError as error:
            errors.append(error)

    with Asked([Answer(text="never", hold=threading.Event())]) as asked:
        thread = threading.Thread(target=ask)
        thread.start()
        asked.server.wait_for(1)
        asked.server.close()
        thread.join()
    assert len(errors) == 1


def test_a_delay_comes_before_the_answer() -> None:
    with Asked([Answer(text="slow", delay=5)]) as asked, pytest.raises(openai.APITimeoutError):
        asked.client.with_options(timeout=0.2).responses.create(model="gpt-x", input="hi")


def test_an_answer_cut_in_the_middle_is_a_connection_error() -> None:
    with Asked([Answer(text="a whole sentence", cut=True), Answer(text="a whole sentence in pieces", cut=True)]) as asked:
        with pytest.raises(openai.APIConnectionError):
            asked.say()
        seen: list[str] = []
        stream = asked.client.responses.create(model="gpt-x", input="hi", stream=True)
        with pytest.raises(openai.APIConnectionError):
            seen.extend(event.type for event in stream)
        assert seen[0] == "response.created"
        assert "response.completed" not in seen


def test_waiting_for_a_request_that_does_not_come() -> None:
    with ModelServer() as server, pytest.raises(TimeoutError, match="request 1"):
        server.wait_for(1, timeout=0.01)


def test_what_is_not_served_and_what_is_not_json(one: Asked) -> None:
    assert _status(f"{one.server.base_url}/files") == 404
    assert _status(f"{one.server.base_url}/embeddings", b"{}") == 404
    assert _status(f"{one.server.base_url}/responses", b"{") == 400
    assert _status(f"{one.server.base_url}/responses", b"[]") == 400
    assert one.server.requests == []


def _status(url: str, data: bytes | None = None) -> int:
    with pytest.raises(HTTPError) as caught:
        urlopen(Fetch(url, data))
    with caught.value as error:
        assert json.load(error)["error"]["message"]
        return error.code


def test_it_runs_only_inside_with_and_closes_twice() -> None:
    server = ModelServer()
    with pytest.raises(RuntimeError, match="with"):
        _ = server.base_url
    with server:
        assert server.base_url.startswith("http://127.0.0.1:")
    server.close()
