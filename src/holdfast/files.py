"""Files of a session: named bytes that are no part of the conversation, read when somebody asks for them.

Each is a blob. What a list is to show without reading the bytes, the blob's type tells: `SIZE TYPE`.
"""

from __future__ import annotations

import msgspec

from .backend import Blob, BlobPut, BlobRange
from .entries import FILES
from .errors import Corrupt, FileNotFound, InvalidValue
from .ids import check_id

LISTED = BlobRange(namespace=FILES, data=False)


class FileInfo(msgspec.Struct, frozen=True):
    """A file as a list shows it; `size` in bytes."""

    name: str
    type: str
    size: int


def check_name(name: str) -> str:
    """`name` itself when it is 1 to 1,024 bytes of printable Unicode; `InvalidId` otherwise."""
    return check_id(name, "file name")


def put_of(name: str, data: bytes | str, type: str | None) -> BlobPut:
    """What stores a file in the place of one with the same name. `type`: if None, `text/plain` or `application/octet-stream`."""
    if not isinstance(data, bytes | bytearray | memoryview | str):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers without a type checker
        raise InvalidValue(f"file {name!r:.80}: its data must be bytes or text, not {data.__class__.__name__}")
    if type is not None and not (isinstance(type, str) and type.isprintable() and 0 < len(type) <= 200):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidValue(f"file {name!r:.80}: type={type!r:.80} must be a media type such as 'image/png', or be left out")
    try:
        stored = data.encode() if isinstance(data, str) else bytes(data)
    except UnicodeEncodeError as error:
        raise InvalidValue(f"file {name!r:.80}: its text can't be stored: {error}") from None
    kind = type or ("text/plain" if isinstance(data, str) else "application/octet-stream")
    return BlobPut(FILES, check_name(name), f"{len(stored)} {kind}", stored)


def data_of(name: str, found: list[Blob]) -> bytes:
    """The bytes of the file that was read as `found`; `FileNotFound` where there is none."""
    if not found or found[0].data is None:
        raise FileNotFound(f"there is no file {name!r} in this session: list_files() tells which there are")
    return found[0].data


def info_of(blob: Blob) -> FileInfo:
    """A listed blob as a file."""
    size, _, type = blob.type.partition(" ")
    if not size.isdecimal():
        raise Corrupt(f"file {blob.key!r} says of itself {blob.type!r}: a size and a type were stored")
    return FileInfo(blob.key, type, int(size))
