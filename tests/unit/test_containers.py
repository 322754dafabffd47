"""docs/containers.md, docs/kubernetes and the Dockerfile, as far as they can be checked without an engine."""

import functools
import os
import re
import shlex
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import kubernetes_validate.utils
import pytest
import yaml
from kubernetes_validate import SchemaNotFoundError, ValidationError, validate
from kubernetes_validate.utils import all_versions

from artifactfs.cli import cli
from artifactfs.settings import SETTINGS
from tests.processes import run

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
MANIFESTS = sorted((DOCS / "kubernetes").glob("*.yaml"))
PAGES = [DOCS / "containers.md", DOCS / "fleets.md", CHECKOUT / "Dockerfile"]
# The oldest release that has all that the files use.
OLDEST = {"secret.yaml": 25, "sidecar.yaml": 29, "daemonset.yaml": 25, "unprivileged.yaml": 30}
HADOLINT = os.path.join(sysconfig.get_path("scripts"), "hadolint")

Row = dict[str, Any]


@functools.cache
def documents(path: Path) -> list[Row]:
    return list(yaml.safe_load_all(path.read_text("utf-8")))


def pods(path: Path) -> Iterator[Row]:
    """Yield the specification of every pod that a file makes."""
    for document in documents(path):
        spec = document.get("spec", {})
        if "template" in spec:
            yield spec["template"]["spec"]
        elif document["kind"] == "Pod":
            yield spec


def containers(path: Path) -> Iterator[tuple[Row, Row]]:
    """Yield every container of a file, and its pod."""
    for pod in pods(path):
        for container in (*pod.get("initContainers", []), *pod["containers"]):
            yield container, pod


def ours(path: Path) -> Iterator[tuple[Row, Row]]:
    for container, pod in containers(path):
        if "artifactfs" in container["image"]:
            yield container, pod


# --- the manifests --------------------------------------------------------------------------------------


def releases(path: Path) -> list[str]:
    return [each for each in all_versions() if int(each.split(".")[1]) >= OLDEST[path.name]]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Kubernetes' own schemas, with every field known, for each release from the oldest that it is for."""
    # Of each release the definitions of all kinds are a megabyte, and the same for each document.
    read = functools.lru_cache(maxsize=4)(kubernetes_validate.utils.schema_contents)
    monkeypatch.setattr(kubernetes_validate.utils, "schema_contents", read)
    assert len(releases(path)) >= 1
    for release in releases(path):
        for document in documents(path):
            validate(document, release, strict=True)


def test_the_check_of_manifests_can_fail() -> None:
    """A field that there is not, a wrong type, and a kind that there is not are found."""
    (pod,) = documents(DOCS / "kubernetes" / "unprivileged.yaml")
    release = all_versions()[-1]
    for wrong in ({"mountPropagations": "x"}, {"mountPath": 7}):
        changed = yaml.safe_load(yaml.safe_dump(pod))
        changed["spec"]["containers"][0]["volumeMounts"][0] |= wrong
        with pytest.raises(ValidationError):
            validate(changed, release, strict=True)
    with pytest.raises(SchemaNotFoundError):
        validate(pod | {"kind": "Pods"}, release, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_mounts_are_handed_on(path: Path) -> None:
    """Bidirectional takes a privileged container; a reader has it from the host; each volume is one of the pod's."""
    for container, pod in containers(path):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes
            if mount.get("mountPropagation") == "Bidirectional":
                assert container["securityContext"]["privileged"] is True
                assert not mount.get("readOnly")
            elif mount["name"] == "model-lab":
                assert mount["mountPropagation"] == "HostToContainer"
                assert mount["readOnly"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_keys_are_files_of_the_secret(path: Path) -> None:
    """No key is in an environment; each file is a key of the Secret; the user of the container may read them."""
    (secret,) = documents(DOCS / "kubernetes" / "secret.yaml")
    for container, pod in ours(path):
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
        assert volume["secret"]["secretName"] == secret["metadata"]["name"]
        files = {f"{mounted[volume['name']]}/{name}" for name in secret["stringData"]}
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        assert {value for name, value in env.items() if name.endswith("_FILE")} == files
        user = container["securityContext"]["runAsUser"]
        mode = volume["secret"]["defaultMode"]
        assert mode & 0o077 in (0, 0o040)
        assert user == 0 or (pod["securityContext"]["fsGroup"] == user and mode & 0o040)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_variables_are_settings(path: Path) -> None:
    known = {name for setting in SETTINGS for name in setting.env}
    for container, _ in ours(path):
        assert {variable["name"] for variable in container["env"]} <= known


def test_the_sidecar_is_there_first_and_last() -> None:
    """It stays beside the job, which waits for its probe; it unmounts at its end; its cache fits its volume."""
    ((container, pod),) = ours(DOCS / "kubernetes" / "sidecar.yaml")
    assert container in pod["initContainers"]
    assert container["restartPolicy"] == "Always"
    point = container["args"][0].split()[-1]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["exec"]["command"] == ["sh", "-c", f"ls {point} | grep -q runs"]
    assert container["lifecycle"]["preStop"]["exec"]["command"] == ["artifactfs", "umount", point]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    (cache,) = [volume for volume in pod["volumes"] if volume["name"] == "cache"]
    # Both are in GiB.
    size = int(env["ARTIFACTFS_CACHE_SIZE"].removesuffix("GiB"))
    assert size < int(cache["emptyDir"]["sizeLimit"].removesuffix("Gi"))


# --- the commands ---------------------------------------------------------------------------------------


def commands_of_page(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `artifactfs` in the code of a page, also of one in a container."""
    for block in re.findall(r"^(?: {4}|#   )(\S(?:[^\n\\]|\\.|\\\n)*)$", text, re.MULTILINE):
        words = shlex.split(block.replace("\\\n", " "), comments=True)
        if "artifactfs" in words and words[:2] != ["docker", "build"]:
            # The last one: `docker run … artifactfs mount` names the image.
            yield words[len(words) - words[::-1].index("artifactfs") :]


def commands_of_manifest(path: Path) -> Iterator[list[str]]:
    for container, _ in containers(path):
        hooks = [probe["exec"]["command"] for name, probe in container.items() if name.endswith("Probe")]
        hooks += [hook["exec"]["command"] for hook in container.get("lifecycle", {}).values()]
        for command in ([*container["command"], *container.get("args", [])], *hooks):
            scripts = re.split(r"&&|\n|;", command[-1]) if "-c" in command else [shlex.join(command)]
            for script in scripts:
                words = shlex.split(script)
                if "artifactfs" in words:
                    yield words[words.index("artifactfs") + 1 :]


def check_command(words: list[str]) -> None:
    """Check that `artifactfs` has a command with these options. Raises click.UsageError."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        if found is None:
            raise click.UsageError(f"no command {name}")
        command = found
    context = click.Context(command)
    command.parse_args(context, words)


@pytest.mark.parametrize("path", [*PAGES, *MANIFESTS], ids=lambda path: path.name)
def test_commands_are_ours(path: Path) -> None:
    """Each command on these pages is one that artifactfs has, with options that it has."""
    page = path.suffix != ".yaml"
    found = list(commands_of_page(path.read_text("utf-8")) if page else commands_of_manifest(path))
    assert found or path.name == "secret.yaml"
    for words in found:
        check_command(words)


@pytest.mark.parametrize("words", [["mount", "--no-such", "x"], ["no-such"], ["mount"], ["doctor", "a", "b"]])
def test_the_check_of_commands_can_fail(words: list[str]) -> None:
    with pytest.raises(click.UsageError):
        check_command(words)


# --- the Dockerfile -------------------------------------------------------------------------------------


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="hadolint's wheel is for x86_64 only")
def test_the_dockerfile_is_sound(tmp_path: Path) -> None:
    """hadolint finds nothing in it, and finds what is put in."""
    run(HADOLINT, "--no-color", str(CHECKOUT / "Dockerfile")).ok()
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp\n")
    assert "DL3006" in run(HADOLINT, "--no-color", str(tmp_path / "Dockerfile")).text


def test_the_image_is_that_of_the_page() -> None:
    """User, mount point and entry point are as the pages say; what is copied from is there."""
    text = (CHECKOUT / "Dockerfile").read_text("utf-8")
    assert "USER 1000:1000" in text
    assert "--uid 1000 artifactfs" in text
    assert "--owner artifactfs /mnt/artifactfs" in text
    assert 'ENTRYPOINT ["artifactfs"]' in text
    assert "s/^#user_allow_other/user_allow_other/" in text
    for container, _ in ours(DOCS / "kubernetes" / "sidecar.yaml"):
        assert container["securityContext"]["runAsUser"] == 1000
