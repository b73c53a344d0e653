"""What is in `deploy/` fits what it deploys: settings that exist, routes and ports of the server, commands with the options they have.

Docker, Kubernetes and Terraform are not run here: their files are read.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast import Agent, InvalidValue, Store
from holdfast.runtime import Runtime
from holdfast.runtime.settings import BESIDE, Settings, known, read
from holdfast.server import create_app
from holdfast.server.aws import Lambda
from holdfast.server.metrics import Metrics

from .servers import free_port, redis, serving

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DOCKER, LAMBDA, MANIFEST = DEPLOY / "docker", DEPLOY / "lambda", DEPLOY / "kubernetes" / "holdfast.yaml"
EXECUTABLE = Path(sys.executable).with_name("holdfast")
FILES = [
    *[path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and path.suffix != ".pyc"],
    *[ROOT / "docs" / name for name in ("deploy.md", "operations.md")],
]


@pytest.fixture(scope="module")
def paths() -> set[str]:
    """The routes of the server."""
    app = create_app(Runtime(Store.open("memory://")))
    return set(app.openapi()["paths"])


# --- all of it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_of_ours_is_a_setting(file: Path) -> None:
    names = set(re.findall(r"\b(?:HOLDFAST|AK)_\w+", file.read_text("utf-8")))
    settings = {"HOLDFAST_" + name.upper().replace(".", "__") for name in known()} | set(BESIDE)
    told = {"HOLDFAST_PORT"} if file == MANIFEST or file.suffix == ".md" else set[str]()  # named because it is none
    assert {re.sub("^AK_", "HOLDFAST_", name) for name in names} - settings - told == set()


def settings_of(environment: dict[str, str]) -> Settings:
    """What a process reads from this environment; every name of it, and every value, is checked by that."""
    return read({name: str(value) for name, value in environment.items()}).settings


def test_the_metrics_to_watch_are_told() -> None:
    named = set(re.findall(r"holdfast_(?:http|runs?|streams|tokens|cache)_?\w*", (ROOT / "docs" / "operations.md").read_text("utf-8")))
    told = {sample.name for metric in Metrics().registry.collect() for sample in metric.samples} | {
        f"{metric.name}_total" if metric.type == "counter" else metric.name for metric in Metrics().registry.collect()
    }
    assert named - told == set()


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")  # nobody is asked


# --- the container ---------------------------------------------------------------------------------------------------


class Dockerfile:
    """Its instructions, each a word and what follows."""

    def __init__(self) -> None:
        text = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text("utf-8"))
        lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        self.steps = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]

    def all(self, word: str) -> list[str]:
        return [rest for it, rest in self.steps if it == word]

    def last(self, word: str) -> str:
        return self.all(word)[-1]

    @property
    def environment(self) -> dict[str, str]:
        return dict(it.split("=", 1) for it in shlex.split(self.last("ENV")))

    def command(self, word: str) -> list[str]:
        """The command of CMD, or of a HEALTHCHECK, which are written as JSON."""
        return json.loads(self.last(word).rpartition("CMD")[2] or self.last(word))


@pytest.fixture(scope="module")
def dockerfile() -> Dockerfile:
    return Dockerfile()


def test_what_is_copied_into_the_image_is_there_and_not_ignored(dockerfile: Dockerfile) -> None:
    sources = [source for it in dockerfile.all("COPY") if not it.startswith("--from") for source in it.split()[:-1]]
    kept = {line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert kept == set(sources)


def test_the_image_runs_as_nobody_special_and_listens_where_it_says(dockerfile: Dockerfile, paths: set[str]) -> None:
    settings = settings_of(dockerfile.environment)
    assert (settings.server.host, str(settings.server.port)) == ("0.0.0.0", dockerfile.last("EXPOSE"))
    assert dockerfile.last("USER").isdecimal()
    assert dockerfile.last("STOPSIGNAL") == "SIGTERM"
    assert settings.session.sqlite.path.startswith(f"{dockerfile.last('VOLUME')}/")
    asked = re.search(r"http://127.0.0.1:(\d+)(/\w+)", dockerfile.last("HEALTHCHECK"))
    assert asked is not None
    assert asked[1] == str(settings.server.port)
    assert asked[2] in paths


def test_what_the_image_serves_is_an_agent() -> None:
    runtime = Runtime(Store.open("memory://"))
    assert runtime.load(str(DOCKER / "app.py")) == ["desk"]
    assert isinstance(runtime.agent(), Agent)


def test_the_extras_of_the_image_are_the_package_s(dockerfile: Dockerfile) -> None:
    asked = re.search(r"holdfast\[([\w,]+)\]", " ".join(dockerfile.all("RUN")))
    assert asked is not None
    listed = re.findall(r"^(\w[\w-]*) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert set(asked[1].split(",")) <= set(listed)


def test_a_lock_is_cut_down_to_what_is_installed() -> None:
    locked = runpy.run_path(str(DOCKER / "locked.py"))["locked"]
    lock = "# by hand\na-b==1 ; os_name == 'posix' \\\n    --hash=sha256:00\nc==2 \\\n    --hash=sha256:01 \\\n    --hash=sha256:02\nd==3\n"
    report = {"install": [{"is_direct": name == "holdfast", "metadata": {"name": name}} for name in ("A_B", "holdfast", "c")]}
    assert locked(report, lock) == "".join(re.split(r"(?m)^(?=d==)|# by hand\n", lock)[1:2])
    with pytest.raises(KeyError, match="unknown"):
        locked({"install": [{"is_direct": False, "metadata": {"name": "unknown"}}]}, lock)


# --- compose ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text("utf-8"))


def variants() -> list[Any]:
    """The environments that example.env offers: as it stands, and with one of its other parts switched on."""
    text = (DOCKER / "example.env").read_text("utf-8")
    found = [pytest.param(text, id="sqlite")]
    for part in re.split(r"\n\n", text):
        if part.startswith("# ") and "#COMPOSE_PROFILES" in part:
            profile = re.findall(r"#COMPOSE_PROFILES=(\w+)", part)[0]
            found.append(pytest.param(text + re.sub("(?m)^#(?=[A-Z])", "", f"\n{part}"), id=profile))
    return found


def environment_of(text: str) -> dict[str, str]:
    lines = [line.partition("=") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value[1:-1] if value.startswith("'") else value for name, _, value in lines}


@pytest.mark.parametrize("text", variants())
def test_the_environments_of_the_composition_are_settings(text: str, compose: dict[str, Any], dockerfile: Dockerfile) -> None:
    given = environment_of(text)
    app = compose["services"]["app"]
    settings = settings_of(dockerfile.environment | given | app["environment"])
    profile = given["COMPOSE_PROFILES"]
    assert settings.session.type == (profile or "sqlite")
    assert settings.session.place().partition("://")[0] in ("sqlite", "redis", "postgresql")
    if profile:
        (service,) = [name for name, it in compose["services"].items() if profile in it.get("profiles", ())]
        assert f"@{service}" in settings.session.place()
        assert service in app["depends_on"]
    assert settings.server.workers == 2
    assert settings.server.auth.keys


def test_the_composition_refers_to_what_is_there(compose: dict[str, Any], dockerfile: Dockerfile) -> None:
    services = compose["services"]
    volumes = {it.partition(":")[0] for service in services.values() for it in service.get("volumes", ())}
    assert volumes == set(compose["volumes"])
    app = services["app"]
    assert set(app["depends_on"]) <= set(services)
    assert (DOCKER / app["build"]["context"] / app["build"]["dockerfile"]).resolve() == DOCKER / "Dockerfile"
    assert app["volumes"] == [f"data:{dockerfile.last('VOLUME')}"]
    assert [it.rpartition(":")[2] for it in app["ports"]] == [dockerfile.last("EXPOSE")]
    for name, service in services.items():
        assert name == "app" or service["healthcheck"]["test"]
    grace = settings_of(app["environment"]).server.grace
    assert int(app["stop_grace_period"].removesuffix("s")) > grace


def test_a_composed_redis_is_durable_and_takes_its_options(compose: dict[str, Any]) -> None:
    """Its very command, on a server that is here."""
    words = compose["services"]["redis"]["command"][-1].removeprefix("exec ").replace('"$$REDISCLI_AUTH"', "secret").split()
    try:
        binary = redis.valkey9()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))
    (url,) = re.findall(r"REDIS__URL=redis://redis:6379(\S+)", (DOCKER / "example.env").read_text())
    with redis.server(binary, *words[1:]) as server:
        store = Store.open(f"redis://:secret@127.0.0.1:{server.port}{url}")
        assert store.backend.capabilities.durable
        asyncio.run(used(store))


async def used(store: Store) -> None:
    async with store:
        await store.session("s")


# --- holdfast serve --------------------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """Every `holdfast serve` of these files."""
    manifest = next(it for it in yaml.safe_load_all(MANIFEST.read_text()) if it["kind"] == "Deployment")
    found = [Dockerfile().command("CMD"), manifest["spec"]["template"]["spec"]["containers"][0]["args"]]
    for page in FILES:
        if page.suffix == ".md" and page.exists():
            found += [shlex.split(it) for it in re.findall(r"^\$? ?(holdfast serve [^\n#]*)", page.read_text(), re.MULTILINE)]
    return found


def test_the_options_of_the_commands_exist() -> None:
    options = {word for words in commands() for word in words if word.startswith("-")}
    said = subprocess.run([EXECUTABLE, "serve", "--help"], capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "200"})
    assert {it for it in options if it not in said.stdout} == set()


def test_the_container_s_command_is_healthy_and_stops(dockerfile: Dockerfile, compose: dict[str, Any], tmp_path: Path) -> None:
    """The image's own command and health check in the composition's environment, with folders and a port of this machine."""
    port, log = free_port(), tmp_path / "log"
    environment = dockerfile.environment | environment_of((DOCKER / "example.env").read_text()) | compose["services"]["app"]["environment"]
    environment |= {"HOLDFAST_SERVER__PORT": str(port), "HOLDFAST_SESSION__SQLITE__PATH": str(tmp_path / "holdfast.db")}
    environment |= {"PATH": os.environ["PATH"], "OPENAI_API_KEY": "none"}
    _, *words, app = dockerfile.command("CMD")
    check = [it.replace("8000", str(port)) for it in dockerfile.command("HEALTHCHECK")]

    def healthy() -> bool:
        return subprocess.run([sys.executable, *check[1:]], capture_output=True, check=False).returncode == 0

    with serving([str(EXECUTABLE), *words, str(DOCKER / app)], healthy, log=log, env=environment) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The objects by their kind."""
    return {it["kind"]: it for it in yaml.safe_load_all(MANIFEST.read_text("utf-8"))}


@pytest.fixture
def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def configured(manifest: dict[str, Any], dockerfile: Dockerfile, tmp_path: Path) -> Settings:
    """The settings of a pod."""
    config = tmp_path / "config.yaml"
    config.write_text(manifest["ConfigMap"]["data"]["config.yaml"])
    return settings_of(dockerfile.environment | manifest["Secret"]["stringData"] | {"HOLDFAST_CONFIG": str(config)})


def test_a_pod_s_settings(configured: Settings, dockerfile: Dockerfile) -> None:
    assert configured.session.place().startswith("rediss://:change-me@")
    assert configured.session.seconds() == 30 * 24 * 3600
    assert configured.server.auth.keys
    assert configured.agents == dockerfile.command("CMD")[2:]


def test_what_the_objects_name_is_there(manifest: dict[str, Any], pod: dict[str, Any]) -> None:
    labels = manifest["Deployment"]["spec"]["template"]["metadata"]["labels"]
    chosen = [
        manifest["Deployment"]["spec"]["selector"]["matchLabels"],
        manifest["Service"]["spec"]["selector"],
        manifest["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(it.items() <= labels.items() for it in chosen)
    (container,) = pod["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": manifest["Secret"]["metadata"]["name"]}}]
    maps = {it["configMap"]["name"] for it in pod["volumes"] if "configMap" in it}
    assert maps == {manifest["ConfigMap"]["metadata"]["name"]}
    assert {it["name"] for it in container["volumeMounts"]} == {it["name"] for it in pod["volumes"]}
    target = manifest["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", manifest["Deployment"]["metadata"]["name"])
    assert pod["enableServiceLinks"] is False
    with pytest.raises(InvalidValue, match="HOLDFAST_PORT"):
        settings_of({"HOLDFAST_PORT": "tcp://10.0.0.1:80"})  # what such a link would set


def test_ports_and_probes_are_the_server_s(pod: dict[str, Any], manifest: dict[str, Any], configured: Settings, paths: set[str]) -> None:
    (container,) = pod["containers"]
    ports = {it["name"]: it["containerPort"] for it in container["ports"]}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: it["path"] for name, it in probes.items()} == {"startup": "/health", "readiness": "/ready", "liveness": "/health"}
    assert all(it["path"] in paths and ports[it["port"]] == configured.server.port for it in probes.values())
    assert ports[manifest["Service"]["spec"]["ports"][0]["targetPort"]] == configured.server.port


def test_a_pod_has_the_time_to_stop_and_its_successor_comes_first(
    pod: dict[str, Any], manifest: dict[str, Any], configured: Settings
) -> None:
    waits = float(re.findall(r"sleep\((\d+)\)", pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])[0])
    assert pod["terminationGracePeriodSeconds"] >= waits + configured.server.grace + 10
    assert manifest["Deployment"]["spec"]["replicas"] >= 2
    assert manifest["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_a_pod_may_do_little(pod: dict[str, Any], dockerfile: Dockerfile) -> None:
    own = pod["containers"][0]["securityContext"]
    assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    assert (pod["securityContext"]["runAsNonRoot"], str(pod["securityContext"]["runAsUser"])) == (True, dockerfile.last("USER"))


# --- Lambda ----------------------------------------------------------------------------------------------------------


def test_the_function_s_settings_and_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is imported as Lambda does it, with the environment that Terraform gives it."""
    terraform = (LAMBDA / "main.tf").read_text("utf-8")
    given: list[tuple[str, str]] = re.findall(r"(HOLDFAST_\w+)\s+= (\S+)", terraform)
    values: dict[str, str] = {
        "var.agents": str(DOCKER / "app.py"),
        "module.sessions.url": "dynamodb://eu-central-1/holdfast-sessions",
        "var.keys": environment_of((DOCKER / "example.env").read_text())["HOLDFAST_SERVER__AUTH__KEYS"],
    }
    environment: dict[str, str] = {name: values.get(value, value.strip('"')) for name, value in given}
    assert settings_of(environment).session.seconds() == 30 * 24 * 3600
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    module, _, name = re.findall(r'handler\s+= "([\w.]+)"', terraform)[0].rpartition(".")[0], ".", "handler"
    code = f"import sys; sys.path.insert(0, {str(LAMBDA)!r}); import {module}; print(type({module}.{name}).__name__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (said.stdout, said.returncode) == (f"{Lambda.__name__}\n", 0), said.stderr


def test_the_function_s_module_refers_to_what_is_there() -> None:
    text = (LAMBDA / "main.tf").read_text("utf-8")
    (source,) = re.findall(r'source = "(\.[^"]+)"', text)
    outputs = re.findall(r'output "(\w+)"', ((LAMBDA / source).resolve() / "outputs.tf").read_text())
    assert set(re.findall(r"module\.sessions\.(\w+)", text)) <= set(outputs)
    declared = set(re.findall(r'variable "(\w+)"', text))
    assert set(re.findall(r"var\.(\w+)", text)) == declared
    resources = {".".join(it) for it in re.findall(r'resource "(\w+)" "(\w+)"', text)}
    assert {".".join(it) for it in re.findall(r"(aws_\w+)\.(\w+)\.", text)} - {"aws_iam_policy_document.assume"} <= resources
