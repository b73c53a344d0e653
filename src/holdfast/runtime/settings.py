"""What may be set, from the environment and from a file: one tree of names, read once, refused by name where it makes no sense.

What is said in the environment comes before what is in the file: `HOLDFAST_SESSION__REDIS__URL` is `session: redis: url:`. The names that
Agent Kernel documents, `AK_SESSION__...`, are read too, after our own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin, get_type_hints
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import msgspec

from .. import InvalidValue, UsageError
from .checks import CHECKS
from .file import parsed

OURS, THEIRS = "HOLDFAST_", "AK_"
FILE = "config.yaml"
BESIDE = {"HOLDFAST_STORE": "session__url", "HOLDFAST_CONFIG": None}
"""Names of ours that are no path in the tree: another name of one that is, or the file itself."""
_AK_NAMES = (
    *("session__type", "session__redis__url", "session__redis__password", "session__redis__ttl", "session__redis__prefix"),
    *("session__dynamodb__table_name", "session__dynamodb__ttl", "session__cache__size"),
)
Seconds = Annotated[float, msgspec.Meta(ge=0, lt=1e11)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Type = Literal["in_memory", "sqlite", "redis", "postgres", "dynamodb"]


class Secret(str):
    """A value that is shown as stars."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'"


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A branch of the tree."""


class Sqlite(Part, frozen=True):
    path: str = "holdfast.db"


class Redis(Part, frozen=True):
    """`ttl`: seconds after its last use that a session expires, 0 for never; `prefix` of every key."""

    url: str = "redis://localhost:6379"
    password: Secret | None = None
    ttl: Seconds | None = None
    prefix: str | None = None
    cluster: bool = False


class Postgres(Part, frozen=True):
    url: str = "postgresql://localhost/holdfast"
    password: Secret | None = None
    ttl: Seconds | None = None


class DynamoDB(Part, frozen=True):
    table_name: str = "holdfast-sessions"
    ttl: Seconds | None = None
    region: str | None = None
    endpoint: str | None = None


class Cache(Part, frozen=True):
    """`size`: how many sessions are kept in memory, 0 for none."""

    size: Annotated[int, msgspec.Meta(ge=0)] = 0


class SessionSettings(Part, frozen=True):
    """Where sessions are kept. `url` names a store of any kind in one, and comes before `type`.

    `state_history`: the log tells what each commit changes in a session's state.
    """

    type: Type = "sqlite"
    url: str | None = None
    ttl: Seconds | None = None
    tenant: str = "default"
    state_history: bool = True
    sqlite: Sqlite = Sqlite()
    redis: Redis = Redis()
    postgres: Postgres = Postgres()
    dynamodb: DynamoDB = DynamoDB()
    cache: Cache = Cache()

    def place(self) -> str:
        """The URL of the store."""
        if self.url or self.type == "in_memory":
            return self.url or "memory://"
        return _PLACES[self.type](getattr(self, self.type))

    def options(self) -> dict[str, Any]:
        """How the store is opened, beside its place and its cache."""
        return {"tenant": self.tenant, "ttl": self.seconds(), "state_history": self.state_history}

    def seconds(self) -> float | None:
        """How long a session lives after its last use; None for ever."""
        own = getattr(getattr(self, self.type, None), "ttl", None) if self.url is None else None
        return (self.ttl if own is None else own) or None


class Key(Part, frozen=True):
    """An API key: `hash` is what `holdfast keys new` prints, the key itself is kept nowhere. `tenant` None: `session.tenant`."""

    hash: str
    user: str | None = None
    role: Literal["user", "admin"] = "user"
    tenant: str | None = None


class Jwt(Part, frozen=True):
    """Tokens of an identity provider: signed by a key that `jwks_url` lists, for `audience`; claims name tenant, user and role."""

    jwks_url: str | None = None
    issuer: str | None = None
    audience: str | None = None
    user_claim: str = "sub"
    tenant_claim: str | None = None
    role_claim: str | None = None
    admin_role: str = "admin"
    algorithms: tuple[str, ...] = ("RS256", "ES256")


class Auth(Part, frozen=True):
    """Who may call. Without keys and tokens a server listens on this machine only, and whoever calls is an admin."""

    keys: list[Key] = []
    jwt: Jwt = Jwt()

    @property
    def asked(self) -> bool:
        """Whether callers have to show who they are."""
        return bool(self.keys or self.jwt.jwks_url)


class Limits(Part, frozen=True):
    """`body`: bytes of a request at most. `rate`: requests a second of one caller in the long run (0: any), `burst`: at once. `runs` and
    `streams`: at once, in one worker."""

    body: Count = 8 * 1024 * 1024
    rate: Annotated[float, msgspec.Meta(ge=0)] = 50.0
    burst: Count = 100
    runs: Count = 256
    streams: Count = 2000


class ServerSettings(Part, frozen=True):
    """`grace`: seconds that a server which is told to stop gives its runs; those left are handed over. `lease`: seconds of silence after
    which a worker's runs are gone on with elsewhere. `cors`: origins that may call."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8000
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    grace: Seconds = 20.0
    lease: Annotated[float, msgspec.Meta(ge=1, le=3600)] = 15.0
    cors: list[str] = []
    inbox: bool = True
    auth: Auth = Auth()
    limits: Limits = Limits()


class Settings(Part, frozen=True):
    """The whole tree. `agents`: modules and objects to load, as on the command line."""

    session: SessionSettings = SessionSettings()
    server: ServerSettings = ServerSettings()
    agents: list[str] = []


class Found(msgspec.Struct, frozen=True):
    """The settings, and where each that was given was found, by its dotted name."""

    settings: Settings
    sources: dict[str, str]


def read(environment: Mapping[str, str], *, file: str | None = None) -> Found:
    """The settings. `InvalidValue` names what is unknown or makes no sense, and where it was found.

    `file`: instead of `$HOLDFAST_CONFIG`, or ./config.yaml if it exists.
    """
    named = file or environment.get("HOLDFAST_CONFIG")
    path = Path(named or FILE)
    if named is not None and not path.is_file():
        raise InvalidValue(f"{path}: there is no such file")
    given: dict[str, tuple[Any, str]] = {}
    if path.is_file():
        given |= {name: (value, str(path)) for name, value in _leaves(parsed(path), Settings, "")}
    given |= dict(_of_environment(environment, THEIRS))
    given |= dict(_of_environment(environment, OURS))
    for name, (_, source) in given.items():
        _check_known(name, source)
    return Found(_converted(given), {name: source for name, (_, source) in given.items()})


def known() -> dict[str, Any]:
    """Every setting by its dotted name, with its type."""
    return dict(_fields(Settings, ""))


def shown(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted name, with its value; secrets as stars."""
    for name in known():
        it: Any = settings
        for part in name.split("."):
            it = getattr(it, part, None)
        yield name, _masked(it)


# --- from where ------------------------------------------------------------------------------------------------------


def _leaves(tree: Mapping[str, Any], kind: Any, above: str) -> Iterator[tuple[str, Any]]:
    """What a file gives, by dotted names."""
    for name, value in tree.items():
        place = f"{above}{name}"
        inner = _fields_of(kind).get(str(name)) if _is_part(kind) else None
        if isinstance(value, dict) and inner is not None and _is_part(inner):
            yield from _leaves(cast("dict[str, Any]", value), inner, f"{place}.")
        elif not (value is None and inner is not None and _is_part(inner)):
            yield place, value


def _of_environment(environment: Mapping[str, str], prefix: str) -> Iterator[tuple[str, tuple[Any, str]]]:
    for name, text in environment.items():
        if not name.startswith(prefix):
            continue
        path = BESIDE.get(name, name.removeprefix(prefix).lower())
        if path is None or (prefix == THEIRS and path not in _AK_NAMES and not path.startswith("session__")):
            continue  # the file is named, or it is of Agent Kernel and none of our business
        if prefix == THEIRS and path not in _AK_NAMES:
            near = get_close_matches(path, _AK_NAMES, 1, 0.6)
            fix = f"did you mean {_theirs(near[0])}?" if near else f"those that are read: {', '.join(map(_theirs, _AK_NAMES))}"
            raise InvalidValue(f"{name}: Agent Kernel has no such setting: {fix}")
        place = path.replace("__", ".")
        yield place, (_listed(place, text), name)


def _theirs(path: str) -> str:
    return f"{THEIRS}{path.upper()}"


def _listed(place: str, text: str) -> Any:
    """A list is written as JSON, or with commas."""
    if get_origin(known().get(place)) not in (list, tuple):
        return text
    if text.lstrip().startswith("["):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return [it.strip() for it in text.split(",") if it.strip()]


# --- what it means ---------------------------------------------------------------------------------------------------


_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def _check_known(name: str, source: str) -> None:
    names = known()
    if name in names:
        return
    if inner := dict.fromkeys(it.removeprefix(f"{name}.").partition(".")[0] for it in names if it.startswith(f"{name}.")):
        raise InvalidValue(f"{source}: {name} is a block with {', '.join(inner)}, not a value")
    near = get_close_matches(name, names, 1, 0.6)
    fix = f"did you mean {near[0]}?" if near else "`holdfast config show` lists what there is"
    raise InvalidValue(f"{source}: there is no setting {name!r}: {fix}")


def _converted(given: Mapping[str, tuple[Any, str]]) -> Settings:
    tree: dict[str, Any] = {}
    for name, (value, source) in given.items():
        kind = known()[name]
        try:
            checked = msgspec.convert(_meant(kind, value), kind, strict=False, dec_hook=_secret)
            if checked is not None and name in CHECKS:
                CHECKS[name](checked)
        except (msgspec.ValidationError, UsageError) as error:
            why = _wanted(kind, value) if isinstance(error, msgspec.ValidationError) else None
            raise InvalidValue(f"{source}: {name} = {_told(name, kind, value):.120}: {why or error}") from None
        *above, last = name.split(".")
        branch = tree
        for part in above:
            branch = branch.setdefault(part, {})
        branch[last] = checked
    return _built(Settings, tree)


def _meant(kind: Any, value: Any) -> Any:
    """What a text stands for: yes and no in their words, and nothing, where there need be no number."""
    if not isinstance(value, str):
        return value
    if kind is bool and (word := value.strip().lower()) in _YES + _NO:
        return word in _YES
    return None if not value.strip() and type(None) in get_args(kind) and not _is_text(kind) else value


def _is_text(kind: Any) -> bool:
    return any(isinstance(it, type) and issubclass(it, str) for it in get_args(kind))


def _wanted(kind: Any, value: Any) -> str | None:
    """What a setting has to be, where that can be said better than by naming its type."""
    if kind is bool:
        return "it must be true or false; yes and no, on and off, 1 and 0 are taken too"
    if get_origin(kind) is Literal:
        return f"it must be {_one_of(get_args(kind), value)}"
    if _holds_keys(kind) and isinstance(value, list):
        given = [cast("dict[str, Any]", it) if isinstance(it, dict) else {} for it in cast("list[object]", value)]
        roles = [it.get("role", "user") for it in given]
        words = get_args(get_type_hints(Key)["role"])
        return next((f"[{n}].role must be {_one_of(words, it)}" for n, it in enumerate(roles) if it not in words), None)
    if get_origin(kind) not in (list, tuple) or isinstance(value, list):
        return None
    plain = isinstance(value, str) and value.isprintable() and not value.startswith("[") and not _holds_keys(kind)
    return f"it must be a list{f', as in [{_without_password(value):.80}]' if plain else ''}"


def _one_of(words: tuple[str, ...], value: Any) -> str:
    near = get_close_matches(str(value).lower(), words, 1, 0.6)
    return f"{', '.join(words[:-1])} or {words[-1]}" + (f": did you mean {near[0]}?" if near else "")


def _built(kind: Any, tree: Mapping[str, Any]) -> Any:
    hints = _fields_of(kind)
    return kind(**{name: _built(hints[name], value) if _is_part(hints[name]) else value for name, value in tree.items()})


def _secret(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, str | int):
        return Secret(value)
    raise ValueError(f"expected text, got {type(value).__name__}")


def _fields(kind: Any, above: str) -> Iterator[tuple[str, Any]]:
    for name, hint in _fields_of(kind).items():
        if _is_part(hint):
            yield from _fields(hint, f"{above}{name}.")
        else:
            yield f"{above}{name}", hint


def _fields_of(kind: Any) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(kind, include_extras=True).items() if name in kind.__struct_fields__}


def _is_part(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Part)


def _secretive(kind: Any) -> bool:
    return kind is Secret or Secret in get_args(kind)


_STARS = "********"
_IN_QUERY = re.compile(r"(?<=[?&])([^=&#]*(?:key|password|secret|token)[^=&#]*=)[^&]+", re.IGNORECASE)
_IN_PLACE = re.compile(r"(?<=//)([^:@/?#]*):.*(?=@)", re.DOTALL)
"""As errors about store URLs have it (`backends.urls.shown`): a login goes to the last @, for a password may hold some."""


def _told(name: str, kind: Any, value: Any) -> str:
    """A value that makes no sense, as an error may show it: nothing of what may be secret."""
    if _secretive(kind) or _holds_keys(kind):
        return _STARS
    return repr(_without_password(value) if isinstance(value, str) else value)


def _masked(value: Any) -> Any:
    if isinstance(value, Secret):
        return _STARS
    if isinstance(value, str):
        return _without_password(value)
    if isinstance(value, list):
        return [_masked(msgspec.structs.replace(it, hash=_STARS) if isinstance(it, Key) else it) for it in cast("list[Any]", value)]
    return msgspec.to_builtins(value)


def _without_password(url: str) -> str:
    """The URL with stars for its password, in the place of it and in its options."""
    return _IN_QUERY.sub(rf"\g<1>{_STARS}", _IN_PLACE.sub(rf"\g<1>:{_STARS}", url))


def _holds_keys(kind: Any) -> bool:
    return Key in get_args(kind)


# --- from settings to a URL ------------------------------------------------------------------------------------------


def _redis(it: Redis) -> str:
    options = {"prefix": it.prefix} if it.prefix is not None else {}
    return _with(it.url, it.password, options | ({"cluster": "true"} if it.cluster else {}))


def _dynamodb(it: DynamoDB) -> str:
    options = {"endpoint": it.endpoint} if it.endpoint else {}
    return _with(f"dynamodb://{it.region or ''}/{quote(it.table_name, safe='')}", None, options)


def _with(url: str, password: Secret | None, options: Mapping[str, str]) -> str:
    """The URL with a password, unless it has one, and with options."""
    parts = urlsplit(url)
    place = parts.netloc
    if password is not None and parts.password is None:
        user, at, host = place.rpartition("@")
        place = f"{user}:{quote(password, safe='')}@{host if at else place}"
    query = "&".join(filter(None, (parts.query, urlencode(options))))
    rest = urlunsplit(parts._replace(scheme="", netloc="", query=query))
    return f"{parts.scheme}://{place}{rest}"  # also where there is no place


def _postgres(it: Postgres) -> str:
    return _with(it.url, it.password, {})


def _sqlite(it: Sqlite) -> str:
    return f"sqlite:///{it.path}"


_PLACES: dict[str, Callable[[Any], str]] = {"sqlite": _sqlite, "redis": _redis, "postgres": _postgres, "dynamodb": _dynamodb}
