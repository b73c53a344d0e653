"""Who calls: keys and tokens, a server that asks nobody, and what browsers may do."""

from __future__ import annotations

import asyncio
import hmac
import json
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi import FastAPI
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.responses import HTMLResponse

from holdfast import InvalidId, InvalidValue, Store, UsageError
from holdfast.runtime import Runtime
from holdfast.runtime.settings import Auth, Jwt, Key, ServerSettings, read
from holdfast.server import create_app, tokens
from holdfast.server.callers import Caller, check_exposed
from holdfast.server.credentials import Credentials
from holdfast.server.guard import SafeHeaders
from holdfast.server.keys import Keys, hash_of, new_key
from holdfast.server.problems import Problem
from holdfast.server.tokens import Tokens
from holdfast.testing.model_server import ModelServer

from .crowd import AUTH, HERE, KEYS, application, client, desk


def served(**settings: Any) -> FastAPI:
    return create_app(Runtime(Store.open("memory://")), ServerSettings(**settings))


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_256_random_bits_and_only_its_hash_is_kept() -> None:
    key = new_key()
    assert key.startswith("hf_")
    assert len(key) == 3 + 43
    assert key != new_key()
    assert hash_of(key).startswith("sha256:")
    assert key not in repr(vars(Keys([Key(hash=hash_of(key), user="ada")], "default")))


async def test_a_call_that_is_repeated_with_another_key_of_the_same_user_is_the_same_run() -> None:
    """Keys are changed while calls are under way. Who else says the same has a run of their own."""
    old, new, other = new_key(), new_key(), new_key()
    auth = Auth(keys=[Key(hash=hash_of(old), user="ada"), Key(hash=hash_of(new), user="ada"), Key(hash=hash_of(other), user="bob")])
    with ModelServer(desk) as model:
        app = application(model.base_url, auth=auth)
        async with app.router.lifespan_context(app), client(app) as it:
            whose = [{"idempotency-key": "order-7", "x-api-key": key} for key in (old, new, other)]
            found = [(await it.post("/run", json={"message": "hello"}, headers=headers)).json()["session_id"] for headers in whose]
    assert found[0] == found[1] != found[2]
    assert len(model.requests) == 2


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
async def test_a_key_is_shown_as_a_bearer_token_or_in_a_header_of_its_own(header: str) -> None:
    shown = f"Bearer {KEYS['ada']}" if header == "authorization" else KEYS["ada"]
    async with client(served(auth=AUTH), **{header: shown}) as ada:
        assert (await ada.get("/agents")).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer hf_wrong"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {KEYS['ada']}"},
        {"authorization": f"Bearer {hash_of(KEYS['ada'])}"},
        {"authorization": "Bearer a.b.c"},
        {"x-api-key": ""},
        {"x-api-key": "\u00e9\u00ff"},
        {"cookie": f"key={KEYS['ada']}"},
    ],
    ids=["none", "wrong", "empty", "basic", "hash", "no-token", "no-key", "no-ascii", "cookie"],
)
async def test_what_is_no_key_of_ours_is_nobody(headers: dict[str, str]) -> None:
    app = served(auth=AUTH)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HERE) as it:
        answer = await it.get("/agents", headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()])
        by_query = await it.get("/agents", params={"key": KEYS["ada"], "access_token": KEYS["ada"]})
    assert (answer.status_code, by_query.status_code) == (401, 401)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["status"] == 401
    assert KEYS["ada"] not in answer.text


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([Key(hash=KEYS["ada"], user="ada")], r"server\.auth\.keys\[0\]\.hash is no hash"),
        ([Key(hash="sha256:abc", user="ada")], r"server\.auth\.keys\[0\]\.hash is no hash"),
        ([Key(hash=hash_of("x"), user="ada"), Key(hash=hash_of("x"), user="bob")], r"keys\[1\]\.hash is that of another"),
        ([Key(hash=hash_of("x"))], r"keys\[0\] has no user"),
        ([Key(hash=hash_of("x"), user="a\nb")], "user id"),
        ([Key(hash=hash_of("x"), role="admin", tenant="")], "tenant"),
    ],
    ids=["key", "short", "twice", "nobody", "odd-user", "odd-tenant"],
)
def test_keys_that_make_no_sense_are_refused_by_their_place(keys: list[Key], said: str) -> None:
    with pytest.raises((InvalidValue, InvalidId), match=said) as refused:
        served(auth=Auth(keys=keys))
    assert KEYS["ada"] not in str(refused.value)


async def test_a_key_without_a_tenant_is_of_the_stores() -> None:
    it = Credentials(Auth(keys=[Key(hash=hash_of("k"), user="ada"), Key(hash=hash_of("l"), user="ada", tenant="b")]), "a")
    assert [(await it.caller(key)).tenant for key in ("k", "l")] == ["a", "b"]


def test_nobody_is_a_user_without_a_name() -> None:
    with pytest.raises(ValueError, match="one user"):
        Caller(role="user")


@pytest.mark.parametrize("role", ["user", "admin"])
def test_a_key_from_the_terminal_works_from_the_environment(role: str) -> None:
    command = [str(Path(sys.executable).with_name("holdfast")), "keys", "new", "--json", "--user", "ada", "--role", role, "--tenant", "a"]
    made = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    found = read({"HOLDFAST_SERVER__AUTH__KEYS": json.dumps([made["entry"]])}).settings
    caller = asyncio.run(Credentials(found.server.auth, "default").caller(made["key"]))
    assert (caller.owner, caller.role, caller.tenant) == ("ada", role, "a")
    assert caller.user == (None if role == "admin" else "ada")


# --- tokens ----------------------------------------------------------------------------------------------------------


class Provider:
    """An identity provider: a key set behind HTTP, and tokens signed by its keys."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.asked = 0
        self.answer: tuple[int, bytes] = (200, json.dumps({"keys": [self._jwk("rsa"), self._jwk("ec")]}).encode())
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked += 1
                self.send_response(provider.answer[0])
                self.end_headers()
                self.wfile.write(provider.answer[1])

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def _jwk(self, kid: str) -> dict[str, Any]:
        key = getattr(self, kid).public_key()
        told = RSAAlgorithm.to_jwk(key) if kid == "rsa" else ECAlgorithm.to_jwk(key)
        return json.loads(told) | {"kid": kid, "use": "sig"}

    def token(self, *, kid: str = "rsa", alg: str = "RS256", key: Any = None, **claims: Any) -> str:
        """A good token, but for what is said; times are seconds from now."""
        said: dict[str, Any] = {"sub": "ada", "aud": "holdfast", "iss": "https://id.example", "exp": 60} | claims
        payload = {name: value for name, value in said.items() if value is not None}
        payload |= {name: time.time() + payload[name] for name in ("exp", "nbf") if name in payload}
        return jwt.encode(payload, getattr(self, kid, self.rsa) if key is None else key, alg, {"kid": kid})

    @property
    def public(self) -> bytes:
        return self.rsa.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture(scope="module")
def one_provider() -> Generator[Provider]:
    it = Provider()
    yield it
    it.server.shutdown()
    it.server.server_close()


@pytest.fixture
def provider(one_provider: Provider) -> Generator[Provider]:
    good = one_provider.answer
    one_provider.asked = 0
    yield one_provider
    one_provider.answer = good


def accepting(provider: Provider, **more: Any) -> Jwt:
    given: dict[str, Any] = {"jwks_url": provider.url, "audience": "holdfast", "issuer": "https://id.example", **more}
    return Jwt(**given)


async def who(settings: Jwt, token: str) -> Caller | int:
    """Whose token it is, or the status it is refused with."""
    try:
        return await Tokens(settings, "default").caller(token)
    except Problem as problem:
        return problem.status


@pytest.mark.parametrize(
    "good",
    [{}, {"kid": "ec", "alg": "ES256"}, {"exp": -10}, {"nbf": 10}, {"aud": ["others", "holdfast"]}],
    ids=["rsa", "ec", "a-bit-late", "a-bit-early", "one-of-many"],
)
async def test_a_good_token_names_its_user(provider: Provider, good: dict[str, Any]) -> None:
    assert await who(accepting(provider), provider.token(**good)) == Caller(user="ada", owner="ada", name="token")


@pytest.mark.parametrize("alg", ["RS512", "PS256"])
async def test_algorithms_are_those_of_the_settings(provider: Provider, alg: str) -> None:
    token = provider.token(alg=alg)
    assert await who(accepting(provider), token) == 401
    assert await who(accepting(provider, algorithms=(alg,)), token) == Caller(user="ada", owner="ada", name="token")


@pytest.mark.parametrize(
    "bad",
    [
        {"exp": -31},
        {"exp": None},
        {"nbf": 600},
        {"aud": "somebody-else"},
        {"aud": None},
        {"iss": "https://evil.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "a" * 1025},
        {"kid": "unknown"},
        {"alg": "RS384"},
        {"alg": "none", "key": ""},
        {"alg": "HS256", "key": "x" * 32},
        {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)},
    ],
    ids=[
        *("late", "no-end", "early", "audience", "no-audience", "issuer", "no-issuer", "no-user", "empty-user", "control"),
        *("long", "unknown-key", "algorithm", "unsigned", "shared-secret", "other-key"),
    ],
)
async def test_a_bad_token_is_nobodys(provider: Provider, bad: dict[str, Any]) -> None:
    assert await who(accepting(provider), provider.token(**bad)) == 401


async def test_the_public_key_is_no_shared_secret(provider: Provider) -> None:
    header, payload, _ = provider.token().split(".")
    header = urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"rsa"}').rstrip(b"=").decode()
    signature = urlsafe_b64encode(hmac.digest(provider.public, f"{header}.{payload}".encode(), "sha256")).rstrip(b"=").decode()
    assert await who(accepting(provider), f"{header}.{payload}.{signature}") == 401


@pytest.mark.parametrize(
    ("settings", "claims", "found"),
    [
        ({"user_claim": "email"}, {"email": "ada@example.org"}, Caller(user="ada@example.org", owner="ada@example.org", name="token")),
        ({"user_claim": "email"}, {}, 401),
        ({"tenant_claim": "org"}, {"org": "acme"}, Caller(user="ada", owner="ada", tenant="acme", name="token")),
        ({"tenant_claim": "org"}, {}, 401),
        ({"tenant_claim": "org"}, {"org": 7}, 401),
        ({"role_claim": "roles"}, {"roles": ["a", "admin"]}, Caller(owner="ada", role="admin", name="token")),
        ({"role_claim": "scope"}, {"scope": "read admin"}, Caller(owner="ada", role="admin", name="token")),
        ({"role_claim": "roles"}, {"roles": ["administrator"]}, Caller(user="ada", owner="ada", name="token")),
        ({"role_claim": "roles"}, {"roles": {"admin": True}}, Caller(user="ada", owner="ada", name="token")),
        ({"role_claim": "realm.roles"}, {"realm": {"roles": ["admin"]}}, Caller(owner="ada", role="admin", name="token")),
        ({"role_claim": "https://x.org/r"}, {"https://x.org/r": ["admin"]}, Caller(owner="ada", role="admin", name="token")),
        ({}, {"role": "admin", "roles": ["admin"]}, Caller(user="ada", owner="ada", name="token")),
    ],
    ids=[
        *("user", "no-user", "tenant", "no-tenant", "odd-tenant", "roles", "scope", "another-role", "odd-roles", "nested"),
        *("with-dots", "not-asked-for"),
    ],
)
async def test_claims_name_user_tenant_and_role(
    provider: Provider, settings: dict[str, Any], claims: dict[str, Any], found: Caller | int
) -> None:
    assert await who(accepting(provider, **settings), provider.token(**claims)) == found


async def test_keys_are_fetched_once_whatever_strangers_name(provider: Provider) -> None:
    it = Tokens(accepting(provider), "default")
    for _ in range(3):
        await it.caller(provider.token())
        with pytest.raises(Problem, match="valid"):
            await it.caller(provider.token(kid="unknown"))
    assert provider.asked == 1


@pytest.mark.parametrize("answer", [(500, b""), (200, b"<html>"), (200, b"[]"), (404, b"{}")], ids=["error", "html", "list", "gone"])
async def test_a_provider_that_is_away_is_a_503_and_not_asked_by_everybody(
    provider: Provider, answer: tuple[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, provider.answer = provider.answer, answer
    app = served(auth=Auth(keys=AUTH.keys, jwt=accepting(provider)))
    async with client(app, authorization=f"Bearer {provider.token()}") as ada:
        for _ in range(3):
            refused = await ada.get("/agents")
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
            assert provider.url not in refused.text
        assert provider.asked == 1
        assert (await ada.get("/agents", headers={"authorization": f"Bearer {KEYS['ada']}"})).status_code == 200
        provider.answer = good
        monkeypatch.setattr(tokens.time, "monotonic", lambda: time.perf_counter() + 1e9)
        assert (await ada.get("/agents")).status_code == 200


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"algorithms": ("HS256",)}, r"server\.auth\.jwt\.algorithms: 'HS256'"),
        ({"algorithms": ("RS256", "none")}, r"server\.auth\.jwt\.algorithms: 'none'"),
        ({"algorithms": ()}, "is empty"),
        ({"audience": None, "issuer": None}, "audience"),
        ({"jwks_url": "http://id.example/keys"}, r"server\.auth\.jwt\.jwks_url: it begins with https"),
        ({"jwks_url": "file:///etc/passwd"}, r"server\.auth\.jwt\.jwks_url"),
        ({"jwks_url": None}, "names no jwks_url"),
        ({"jwks_url": ""}, "names no jwks_url"),
    ],
    ids=["secret", "unsigned", "no-algorithm", "anybodys", "in-the-clear", "file", "no-keys", "empty"],
)
def test_settings_that_would_take_strangers_tokens_are_refused(provider: Provider, more: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidValue, match=said):
        served(auth=Auth(jwt=accepting(provider, **more)))


# --- nobody is asked -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.2", "example.org", "127.0.0.1.example.org"])
def test_a_server_that_asks_nobody_is_not_exposed(host: str) -> None:
    with pytest.raises(UsageError, match="holdfast keys new"):
        check_exposed(ServerSettings(host=host))
    with pytest.raises(UsageError, match="holdfast keys new"):
        served(host=host)
    check_exposed(ServerSettings(host=host, auth=AUTH))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_it_listens_on_its_own_machine(host: str) -> None:
    check_exposed(ServerSettings(host=host))


def test_it_is_not_open_to_every_website() -> None:
    with pytest.raises(UsageError, match="list the origins"):
        served(cors=["*"])


@pytest.mark.parametrize("base", ["http://localhost:8000", "http://127.0.0.1:8000", "http://[::1]:8000"])
async def test_whoever_is_on_this_machine_is_an_admin(base: str) -> None:
    async with client(served(), base=base) as somebody:
        made = await somebody.post("/sessions", json={"session_id": "one", "user_id": "ada"})
        assert made.status_code == 201
        assert len((await somebody.get("/sessions")).json()["items"]) == 1
        assert (await somebody.get("/metrics")).status_code == 200


async def test_its_sessions_are_of_the_stores_tenant() -> None:
    runtime = Runtime(Store.open("memory://", tenant="acme"))
    async with client(create_app(runtime)) as somebody:
        await somebody.post("/sessions", json={"session_id": "one"})
    assert await runtime.store.has("one")


@pytest.mark.parametrize("address", ["192.168.1.7", "8.8.8.8", "2001:db8::1", "::ffff:192.168.1.7"])
async def test_another_machine_is_refused_wherever_it_listens(address: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served(), client=(address, 1)), base_url=HERE) as far:
        assert (await far.get("/sessions")).status_code == 403


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_is_not(address: str) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served(), client=(address, 1)), base_url=HERE) as near:
        assert (await near.get("/sessions")).status_code == 200


@pytest.mark.parametrize(
    "base", ["http://evil.example", "http://127.0.0.1.evil.example:8000", "http://192.168.1.2", "http://localhost.evil"]
)
async def test_another_name_for_this_machine_is_refused(base: str) -> None:
    async with client(served(), base=base) as tricked:
        refused = await tricked.get("/sessions")
    assert refused.status_code == 403
    assert refused.headers["content-type"] == "application/problem+json"


FOREIGN = {
    "origin": {"origin": "https://evil.example"},
    "null": {"origin": "null"},
    "other-port": {"origin": "http://127.0.0.1:3000"},
    "bad": {"origin": "http://["},
    "cross-site": {"sec-fetch-site": "cross-site"},
    "same-site": {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"},
    "framed": {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
}


@pytest.mark.parametrize("how", FOREIGN)
async def test_another_website_is_refused(how: str) -> None:
    app = served()
    async with client(app, **FOREIGN[how]) as tricked:
        answers = [await tricked.get("/sessions"), await tricked.post("/sessions", json={"session_id": "one"})]
    assert {it.status_code for it in answers} == {403}
    assert not await app.state.serving.runtime.store.has("one")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": HERE, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
        {"origin": "https://app.example", "sec-fetch-site": "cross-site"},
    ],
    ids=["no-browser", "own-page", "typed", "link", "listed"],
)
async def test_its_own_pages_links_and_listed_websites_are_answered(headers: dict[str, str]) -> None:
    async with client(served(cors=["https://app.example"]), **headers) as browser:
        assert (await browser.get("/sessions")).status_code == 200


# --- browsers, and a server that asks --------------------------------------------------------------------------------

PREFLIGHT = {"origin": "https://app.example", "access-control-request-method": "POST", "access-control-request-headers": "authorization"}


async def test_no_website_may_read_an_answer_by_default() -> None:
    async with client(served(auth=AUTH), "ada") as ada:
        asked = await ada.options("/sessions", headers=PREFLIGHT)
        answer = await ada.get("/sessions", headers={"origin": "https://app.example"})
    assert asked.status_code == 405
    assert not [it for it in (*asked.headers, *answer.headers) if it.startswith("access-control")]


async def test_a_listed_website_may_and_brings_its_own_credentials() -> None:
    async with client(served(auth=AUTH, cors=["https://app.example"]), "ada") as ada:
        asked = await ada.options("/sessions", headers=PREFLIGHT)
        answer = await ada.get("/sessions", headers={"origin": "https://app.example"})
        other = await ada.get("/sessions", headers={"origin": "https://evil.example"})
        failed = await ada.get("/sessions/none", headers={"origin": "https://app.example"})
    assert asked.status_code == 200
    for it in (asked, answer, failed):
        assert it.headers["access-control-allow-origin"] == "https://app.example"
        assert "access-control-allow-credentials" not in it.headers
    assert "access-control-allow-origin" not in other.headers


@pytest.mark.parametrize("path", ["/health", "/sessions", "/nowhere", "/openapi.json"])
async def test_every_answer_is_safe_in_a_browser(path: str) -> None:
    async with client(served(auth=AUTH)) as somebody:
        headers = (await somebody.get(path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["cache-control"] == "no-store"


async def test_a_page_runs_scripts_of_this_server_only() -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(SafeHeaders(HTMLResponse("<p>"))), base_url=HERE) as browser:
        policy = (await browser.get("/")).headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy


def test_the_document_says_who_is_asked() -> None:
    document = served(auth=AUTH).openapi()
    assert document["paths"]["/sessions"]["get"]["security"] == [{"bearer": []}, {"key": []}]
    assert "security" not in document["paths"]["/health"]["get"]
    assert document["components"]["securitySchemes"].keys() == {"bearer", "key"}
    assert "securitySchemes" not in served().openapi().get("components", {})
