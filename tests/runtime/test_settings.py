"""Settings: from where, in which order, refused by name, and nothing secret told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from holdfast import InvalidValue
from holdfast.cli.app import app
from holdfast.runtime.settings import Found, Settings, known, read, shown

HUSH = "s3cr3t-w0rd"
PAGE = Path(__file__).parent.parent.parent / "docs" / "configuration.md"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No config.yaml but a test's own."""
    monkeypatch.chdir(tmp_path)


def given(file: str | None = None, **environment: str) -> Found:
    if file is not None:
        Path("config.yaml").write_text(file, "utf-8")
    return read(environment)


# --- from where ------------------------------------------------------------------------------------------------------


def test_nothing_is_set() -> None:
    found = given()
    assert (found.settings, found.sources, found.settings.session.place()) == (Settings(), {}, "sqlite:///holdfast.db")


FILE = "session:\n  type: redis\n  redis: {url: 'redis://file', ttl: 1}\n"


@pytest.mark.parametrize(
    ("file", "environment", "url", "source"),
    [
        (None, {}, "redis://localhost:6379", None),
        (FILE, {}, "redis://file", "config.yaml"),
        (FILE, {"AK_SESSION__REDIS__URL": "redis://ak"}, "redis://ak", "AK_SESSION__REDIS__URL"),
        (FILE, {"AK_SESSION__REDIS__URL": "redis://ak", "HOLDFAST_SESSION__REDIS__URL": "redis://own"}, "redis://own", None),
        (FILE, {"HOLDFAST_SESSION__REDIS__URL": "redis://own"}, "redis://own", "HOLDFAST_SESSION__REDIS__URL"),
    ],
    ids=["default", "file", "agent-kernel", "all", "own"],
)
def test_what_comes_before_what(file: str | None, environment: dict[str, str], url: str, source: str | None) -> None:
    found = given(file, **environment)
    assert found.settings.session.redis.url == url
    assert source is None or found.sources["session.redis.url"] == source
    assert found.settings.session.redis.ttl == (None if file is None else 1), "the rest of the file counts all the same"


AK = {
    "AK_SESSION__TYPE": ("session.type", "dynamodb", "dynamodb"),
    "AK_SESSION__REDIS__URL": ("session.redis.url", "rediss://secure-endpoint:6380", "rediss://secure-endpoint:6380"),
    "AK_SESSION__REDIS__PASSWORD": ("session.redis.password", "your-password", "********"),
    "AK_SESSION__REDIS__TTL": ("session.redis.ttl", "604800", 604800),
    "AK_SESSION__REDIS__PREFIX": ("session.redis.prefix", "ak:sessions:", "ak:sessions:"),
    "AK_SESSION__DYNAMODB__TABLE_NAME": ("session.dynamodb.table_name", "agent-kernel-sessions", "agent-kernel-sessions"),
    "AK_SESSION__DYNAMODB__TTL": ("session.dynamodb.ttl", "604800", 604800),
    "AK_SESSION__CACHE__SIZE": ("session.cache.size", "256", 256),
}


@pytest.mark.parametrize("name", AK)
def test_every_documented_name_of_agent_kernel_is_read(name: str) -> None:
    setting, written, value = AK[name]
    found = given(**{name: written})
    assert (dict(shown(found.settings))[setting], found.sources) == (value, {setting: name})


def test_what_else_agent_kernel_sets_is_none_of_our_business() -> None:
    assert given(AK_API__PORT="8000", AK_DEBUG="1", OTHER="x").sources == {}


def test_another_file(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("session: {tenant: acme}\n", "utf-8")
    given("session: {tenant: not read}\n")
    assert given(HOLDFAST_CONFIG="other.yaml").settings.session.tenant == "acme"
    assert read({"HOLDFAST_CONFIG": "nowhere.yaml"}, file="other.yaml").settings.session.tenant == "acme"
    with pytest.raises(InvalidValue, match=r"nowhere\.yaml: there is no such file"):
        given(HOLDFAST_CONFIG="nowhere.yaml")


@pytest.mark.parametrize("file", ["", "# nothing\n", "session:\n", "session: {redis: }\n", "---\n"], ids=repr)
def test_a_file_that_says_nothing(file: str) -> None:
    assert given(file).settings == Settings()


# --- kinds of values -------------------------------------------------------------------------------------------------

H1, H2 = [f"sha256:{it * 64}" for it in "12"]
KEYS = f'[{{"hash": "{H1}", "user": "ada"}}, {{"hash": "{H2}", "role": "admin"}}]'


def test_lists_and_what_is_nested() -> None:
    ours = given(
        HOLDFAST_AGENTS="desk:agent, team.py:team",
        HOLDFAST_SERVER__CORS='["https://a.example", "https://b.example"]',
        HOLDFAST_SERVER__AUTH__KEYS=KEYS,
        HOLDFAST_SERVER__AUTH__JWT__ALGORITHMS="RS256",
        HOLDFAST_SERVER__INBOX="false",
        HOLDFAST_SERVER__LIMITS__RATE="2.5",
    ).settings
    filed = given(
        "agents: [desk:agent, 'team.py:team']\n"
        "server:\n  cors: [https://a.example, https://b.example]\n  inbox: no\n  limits: {rate: 2.5}\n"
        "  auth:\n    keys:\n      - {hash: '1', user: ada}\n      - {hash: '2', role: admin}\n    jwt: {algorithms: [RS256]}\n".replace(
            "'1'", f"'{H1}'"
        ).replace("'2'", f"'{H2}'")
    ).settings
    assert ours == filed
    assert (ours.agents, ours.server.auth.keys[1].role) == (["desk:agent", "team.py:team"], "admin")
    assert given(HOLDFAST_AGENTS="").settings.agents == []


@pytest.mark.parametrize("word", ["true", "YES", "on", "1", "false", "No", "off", "0"])
def test_yes_and_no_in_any_words(word: str) -> None:
    meant = word.lower() in ("true", "yes", "on", "1")
    assert given(HOLDFAST_SERVER__INBOX=word).settings.server.inbox is meant
    assert given(f"server: {{inbox: '{word}'}}\n").settings.server.inbox is meant


def test_no_time_to_live_is_for_ever() -> None:
    file = "session: {ttl: 60, type: redis, redis: {ttl: 5, prefix: a}}\n"
    assert given(file, HOLDFAST_SESSION__REDIS__TTL="").settings.session.seconds() == 60
    assert given(file, HOLDFAST_SESSION__REDIS__TTL="", HOLDFAST_SESSION__TTL="").settings.session.seconds() is None
    assert given(file, HOLDFAST_SESSION__REDIS__PREFIX="").settings.session.redis.prefix == "", "a text may be empty"
    with pytest.raises(InvalidValue, match=r"server\.port = ''"):
        given(HOLDFAST_SERVER__PORT="")


@pytest.mark.parametrize(
    ("environment", "place", "seconds"),
    [
        ({"TYPE": "in_memory"}, "memory://", None),
        ({"SQLITE__PATH": "/var/lib/chat.db"}, "sqlite:////var/lib/chat.db", None),
        ({"TYPE": "redis", "REDIS__PASSWORD": "a/b@c", "REDIS__TTL": "60"}, "redis://:a%2Fb%40c@localhost:6379", 60),
        ({"TYPE": "redis", "REDIS__URL": "redis://u:own@h:1/2", "REDIS__PASSWORD": "x"}, "redis://u:own@h:1/2", None),
        ({"TYPE": "redis", "REDIS__PREFIX": "ak:sessions:", "REDIS__CLUSTER": "1"}, None, None),
        ({"TYPE": "redis", "REDIS__TTL": "0", "TTL": "60"}, "redis://localhost:6379", None),
        ({"TYPE": "redis", "TTL": "60"}, "redis://localhost:6379", 60),
        ({"TYPE": "dynamodb", "DYNAMODB__TTL": "0"}, "dynamodb:///holdfast-sessions", None),
        ({"TYPE": "dynamodb", "DYNAMODB__REGION": "eu-west-1", "DYNAMODB__TTL": "9"}, "dynamodb://eu-west-1/holdfast-sessions", 9),
        ({"TYPE": "postgres", "POSTGRES__URL": "postgresql://u@h/d", "POSTGRES__PASSWORD": "p"}, "postgresql://u:p@h/d", None),
        ({"URL": "memory://", "TYPE": "redis", "REDIS__TTL": "60"}, "memory://", None),
    ],
    ids=[f"place{n}" for n in range(11)],
)
def test_where_the_sessions_are_and_how_long(environment: dict[str, str], place: str | None, seconds: float | None) -> None:
    session = given(**{f"HOLDFAST_SESSION__{name}": value for name, value in environment.items()}).settings.session
    assert place is None or session.place() == place
    assert session.seconds() == seconds
    if place is None:
        assert session.place() == "redis://localhost:6379?prefix=ak%3Asessions%3A&cluster=true"


def test_the_terminals_own_name_for_a_store() -> None:
    found = given(HOLDFAST_STORE="sqlite:///other.db")
    assert (found.settings.session.place(), found.sources) == ("sqlite:///other.db", {"session.url": "HOLDFAST_STORE"})


# --- what makes no sense ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "environment", "message"),
    [
        (
            None,
            {"HOLDFAST_SESSION__REDDIS__URL": "x"},
            "HOLDFAST_SESSION__REDDIS__URL: .* 'session.reddis.url': did you mean session.redis.url",
        ),
        (None, {"HOLDFAST_NONSENSE": "x"}, "no setting 'nonsense': `holdfast config show` lists"),
        (None, {"AK_SESSION__REDIS__URI": "x"}, "AK_SESSION__REDIS__URI: .* did you mean AK_SESSION__REDIS__URL"),
        ("session: {reds: {url: x}}\n", {}, r"config\.yaml: there is no setting 'session.reds'"),
        ("session:\n  redis: {uri: x}\n", {}, "'session.redis.uri': did you mean session.redis.url"),
        ("session: redis\n", {}, r"config\.yaml: session is a block with type, url, ttl, .*, redis, .*, not a value"),
        (None, {"HOLDFAST_SERVER__AUTH": "x"}, "HOLDFAST_SERVER__AUTH: server.auth is a block with keys, jwt, not a value"),
        ("1: x\n", {}, "there is no setting '1'"),
        ("- a\n- b\n", {}, "it holds a list"),
        ("a: [\n", {}, r"config\.yaml is no YAML: .*line 2"),
        ("session: {type: mongo}\n", {}, "session.type = 'mongo': it must be in_memory, sqlite, redis, postgres or dynamodb$"),
        (None, {"HOLDFAST_SESSION__TYPE": "Reddis"}, r"'Reddis': it must be .* or dynamodb: did you mean redis\?"),
        ("server: {port: many}\n", {}, "server.port = 'many': Expected `int`"),
        ("server: {cors: a}\n", {}, r"server\.cors = 'a': it must be a list, as in \[a\]$"),
        ("server: {auth: {keys: [{hush: x}]}}\n", {}, r"server\.auth\.keys = \*{8}: Object contains unknown field `hush`"),
        ("server: {auth: {keys: [{hash: x}, {hash: y, role: owner}]}}\n", {}, r"= \*{8}: \[1\]\.role must be user or admin$"),
        (None, {"HOLDFAST_SESSION__REDIS__TTL": "soon"}, "HOLDFAST_SESSION__REDIS__TTL: session.redis.ttl = 'soon'"),
        (None, {"HOLDFAST_SERVER__INBOX": "perhaps"}, "server.inbox = 'perhaps': it must be true or false; yes and no"),
        (None, {"HOLDFAST_SERVER__AUTH__KEYS": '[{"hash": 1'}, r"server\.auth\.keys = \*{8}: it must be a list$"),
    ],
    ids=[f"case{n}" for n in range(19)],
)
def test_what_makes_no_sense_is_refused_by_name(file: str | None, environment: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidValue, match=message):
        given(file, **environment)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("server:\n  host: a\nagents: []\nserver:\n  port: 1\n", "server is set twice, in lines 1 and 4"),
        ("session: {redis: {ttl: 1,\n ttl: 2}}\n", r"session\.redis\.ttl is set twice, in lines 1 and 2"),
        ("server: {auth: {keys: [{user: a},\n {user: a,\n user: a}]}}\n", r"server\.auth\.keys\[1\]\.user is set twice, in lines 2 and 3"),
        (f"session: {{redis: {{password: {HUSH}, 'password': {HUSH}}}}}\n", r"session\.redis\.password is set twice, in lines 1 and 1"),
    ],
    ids=["block", "inner", "list", "secret"],
)
def test_what_a_file_sets_twice_is_refused(file: str, message: str) -> None:
    with pytest.raises(InvalidValue, match=rf"config\.yaml: {message}") as error:
        given(file)
    assert HUSH not in str(error.value)


def test_an_anchor_may_be_used_often() -> None:
    file = "session:\n  redis: &it {ttl: 1, url: 'redis://a'}\n  postgres: {<<: *it, url: 'postgresql://b'}\n"
    assert given(file).settings.session.postgres == msgspec.structs.replace(Settings().session.postgres, url="postgresql://b", ttl=1)


@pytest.mark.parametrize(
    ("name", "value", "fix"),
    [
        ("SERVER__PORT", "99999", "Expected `int` <= 65535"),
        ("SERVER__PORT", "-1", "Expected `int` >= 0"),
        ("SERVER__WORKERS", "0", "Expected `int` >= 1"),
        ("SERVER__GRACE", "-3", "Expected `float` >= 0"),
        ("SERVER__GRACE", "nan", "Expected `float`"),
        ("SERVER__LEASE", "0", "Expected `float` >= 1"),
        ("SERVER__LIMITS__BODY", "0", "Expected `int` >= 1"),
        ("SERVER__LIMITS__RUNS", "0", "Expected `int` >= 1"),
        ("SERVER__CORS", "nonsense", "is no origin: write https://app.example"),
        ("SERVER__CORS", "https://app.example/", "is no origin"),
        ("SESSION__CACHE__SIZE", "-1", "Expected `int` >= 0"),
        ("SESSION__TTL", "-1", "Expected `float` >= 0"),
        ("SESSION__REDIS__TTL", "-1", "Expected `float` >= 0"),
        ("SESSION__TENANT", "", "tenant is empty"),
        ("SESSION__URL", "foo://x", "it must begin with one of"),
        ("SESSION__URL", f"redis://:{HUSH}@h?nonsense=1", "nonsense"),
        ("SERVER__AUTH__KEYS", '[{"hash": "x", "role": "admin"}]', "`holdfast keys new` prints one"),
        ("SERVER__AUTH__JWT__JWKS_URL", "https://id.example/keys", "name the audience"),
        ("SERVER__HOST", "0.0.0.0", "HOLDFAST_SERVER__HOST: server.host is '0.0.0.0' and nobody is asked for credentials"),
        ("SERVER__CORS", "*", "HOLDFAST_SERVER__CORS: server.cors is open to every website"),
        ("AGENTS", "nope.py", "there is no such file"),
        ("AGENTS", "nope:agent", "there is no module 'nope' here"),
    ],
)
def test_config_check_names_what_could_not_be_served(monkeypatch: pytest.MonkeyPatch, name: str, value: str, fix: str) -> None:
    monkeypatch.setenv(f"HOLDFAST_{name}", value)
    told = CliRunner().invoke(app, ["config", "check", "--json"])
    assert told.exit_code == 2
    error = json.loads(told.stderr)["message"] if "message" in told.stderr else told.stderr
    assert fix in error
    assert name.lower().replace("__", ".").rpartition(".")[0] in error
    assert "\n" not in error.strip()
    assert HUSH not in error


def test_config_check_wants_one_store_of_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SERVER__WORKERS", "2")
    assert CliRunner().invoke(app, ["config", "check"]).exit_code == 0
    monkeypatch.setenv("HOLDFAST_SESSION__TYPE", "in_memory")
    told = CliRunner().invoke(app, ["config", "check"])
    assert told.exit_code == 2
    assert "HOLDFAST_SERVER__WORKERS: server.workers: this store is for one process only" in " ".join(told.stderr.split())


# --- what is secret --------------------------------------------------------------------------------------------------


def test_what_is_secret_is_shown_as_stars() -> None:
    found = given(
        HOLDFAST_SESSION__REDIS__PASSWORD=HUSH,
        HOLDFAST_SESSION__REDIS__URL=f"redis://user:{HUSH}@host/0",
        HOLDFAST_SESSION__POSTGRES__URL=f"postgresql://host/d?user=u&password={HUSH}",
        HOLDFAST_SESSION__URL=f"redis://:{HUSH}@host",
        HOLDFAST_SERVER__AUTH__KEYS=json.dumps([{"hash": H1, "role": "admin"}]),
    )
    told = msgspec.json.encode(dict(shown(found.settings))).decode()
    assert HUSH not in told
    assert H1 not in told
    assert "redis://user:********@host/0" in told
    assert HUSH not in repr(found.settings.session.redis.password)
    assert HUSH in found.settings.session.place()


@pytest.mark.parametrize(
    ("name", "url", "told"),
    [
        ("HOLDFAST_STORE", "redis://:p@ssw0rd@127.0.0.1:18999/0", "redis://:********@127.0.0.1:18999/0"),
        ("HOLDFAST_STORE", "redis://u:a/b@c?d@h/0", "redis://u:********@h/0"),
        ("HOLDFAST_STORE", "redis://h:1/0", "redis://h:1/0"),
        ("HOLDFAST_SERVER__AUTH__JWT__JWKS_URL", "https://h/k?api_key=SEC&v=1", "https://h/k?api_key=********&v=1"),
        ("HOLDFAST_SERVER__AUTH__JWT__JWKS_URL", "https://h:1/k?Access-Token=S#C", "https://h:1/k?Access-Token=********"),
    ],
    ids=[f"url{n}" for n in range(5)],
)
def test_a_url_is_shown_without_its_secrets(name: str, url: str, told: str) -> None:
    setting = {"HOLDFAST_STORE": "session.url"}.get(name, "server.auth.jwt.jwks_url")
    assert dict(shown(given(**{name: url}).settings))[setting] == told


@pytest.mark.parametrize(
    "file",
    [
        f"session:\n  redis:\n    password: [{HUSH}]\n",
        f"session:\n  redis:\n    password: {HUSH}\n  \tbad\n",
        f'session: {{redis: {{password: "{HUSH}}}\n',
        f"server: {{auth: {{keys: [{{hash: [{HUSH}]}}]}}}}\n",
        f"session: {{ttl: 'redis://u:{HUSH}@h'}}\n",
        f"server: {{auth: {{keys: [{{hash: {HUSH}}}]}}}}\n",
    ],
    ids=["kind", "tab", "open", "key", "url", "hash"],
)
def test_no_error_tells_a_secret(file: str) -> None:
    with pytest.raises(InvalidValue) as error:
        given(file)
    assert HUSH not in str(error.value)
    assert HUSH not in repr(error.value.__cause__)


# --- the terminal ----------------------------------------------------------------------------------------------------


def test_config_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AK_SESSION__REDIS__PASSWORD", HUSH)
    Path("config.yaml").write_text("session: {type: redis, cache: {size: 256}}\n", "utf-8")
    table = CliRunner().invoke(app, ["config", "show"])
    lines = [line.split() for line in table.stdout.splitlines()]
    assert ["session.type", "redis", "config.yaml"] in lines
    assert ["session.redis.password", "********", "AK_SESSION__REDIS__PASSWORD"] in lines
    assert [line[0] for line in lines[1:]] == list(known())
    rows: list[dict[str, Any]] = json.loads(CliRunner().invoke(app, ["config", "show", "--json"]).stdout)
    assert {"name": "session.cache.size", "value": 256, "source": "config.yaml"} in rows
    assert HUSH not in table.stdout + str(rows)


def test_config_check(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("other.yaml").write_text("session: {type: in_memory}\n", "utf-8")
    fine = CliRunner().invoke(app, ["config", "check", "--config", "other.yaml", "--json"])
    assert json.loads(fine.stdout) == {"set": {"session.type": "other.yaml"}, "store": "in_memory"}
    monkeypatch.setenv("HOLDFAST_SESION__TYPE", "redis")
    wrong = CliRunner().invoke(app, ["config", "check"])
    assert wrong.exit_code == 2
    assert "did you mean session.type?" in wrong.stderr


# --- the page --------------------------------------------------------------------------------------------------------


def row_of(name: str, kind: Any, value: Any) -> str:
    """A setting's line in the page's table."""
    plain = "" if value is None else f"`{value if isinstance(value, str) else json.dumps(value)}`"
    variable = "HOLDFAST_" + name.replace(".", "__").upper()
    return f"| `{name}` | `{variable}` | {plain} |"


def test_the_page_lists_the_whole_tree_with_its_defaults() -> None:
    rows = [row_of(name, known()[name], value) for name, value in shown(Settings())]
    found = [line.rsplit("|", 2)[0] + "|" for line in PAGE.read_text("utf-8").splitlines() if re.match(r"\| `[a-z]", line)]
    assert found == rows, "\n".join(rows)
