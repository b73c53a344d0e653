"""Bytes as blobs hold them: deflated where that makes them smaller, with a dictionary of what every checkpoint says.

A message of a sentence is mostly LangChain's words; the dictionary holds them, so that they cost next to nothing.
"""

from __future__ import annotations

import zlib

from ...errors import Corrupt

_PACKED = "+z1"
"""Ends the type of a blob that was deflated with the first dictionary. Another dictionary needs another mark: this one is read forever."""
_DICTIONARY = (
    b"lc_kwargs RemoveMessage FunctionMessage ChatMessage langchain_core.messages.function langchain_core.messages.chat "
    b"Interrupt langgraph.types Command Send node arg resume value __error__ __scheduled__ __interrupt__ __resume__ "
    b"model_construct model_validate_json token_usage completion_tokens prompt_tokens total_tokens finish_reason model_name "
    b"input_tokens output_tokens input_token_details output_token_details cache_read reasoning usage_metadata "
    b"tool_calls invalid_tool_calls name args id type tool_call tool_call_id artifact status success error "
    b"langchain_core.messages.system SystemMessage system langchain_core.messages.tool ToolMessage tool "
    b"source update fork input loop step parents run_id langgraph_request_id assistant_id graph_id user_id "
    b"counters_since_delta_snapshot pending_sends __pregel_tasks __input__ tools agent branch:to:tools branch:to:agent branch:to:model "
    b"\xa1v\x04\xa2ts\xd9 2026-00-00T00:00:00.000000+00:00\xb0channel_versions\xa9__start__\xa8messages\xafbranch:to:model"
    b"\xadversions_seen\x83\xa9__input__\x80\xa9__start__\x81\xa9__start__\xa5model\x81\xafbranch:to:model"
    b"\xb0updated_channels\x91\xa8messages\x92\xafbranch:to:model\xa8messages\x83\xa6source\xa4loop\xa4step\xa7parents\x80"
    b"\x94\xbclangchain_core.messages.human\xacHumanMessage\x86\xa7content\xa4type\xa5human\xa2id\xd9$00000000-0000-0000-0000-000000000000"
    b"\xa4name\xc0\xb1additional_kwargs\x80\xb1response_metadata\x80\xb3model_validate_json"
    b"\x94\xb9langchain_core.messages.ai\xa9AIMessage\x89\xa7content\xa4type\xa2ai\xa2id\xd9$00000000-0000-0000-0000-000000000000"
    b"\xa4name\xc0\xaatool_calls\x90\xb2invalid_tool_calls\x90\xaeusage_metadata\xc0\xb1additional_kwargs\x80\xb1response_metadata\x80"
)


def packed(type: str, data: bytes) -> tuple[str, bytes]:
    """The type and the bytes of the blob."""
    deflate = zlib.compressobj(zdict=_DICTIONARY, wbits=-15)
    small = deflate.compress(data) + deflate.flush()
    return (type + _PACKED, small) if len(small) < len(data) else (type, data)


def unpacked(type: str, data: bytes) -> tuple[str, bytes]:
    """The opposite. `Corrupt` for bytes that can't be what was packed."""
    if not type.endswith(_PACKED):
        return type, data
    inflate = zlib.decompressobj(zdict=_DICTIONARY, wbits=-15)
    try:
        return type.removesuffix(_PACKED), inflate.decompress(data) + inflate.flush()
    except zlib.error as error:
        raise Corrupt(f"a blob of type {type!r} is not readable: {error}") from error
