"""settings.hiding: which variables are secrets; and the paths that are descriptors of the caller's."""

import os
from pathlib import Path

import pytest

from artifactfs.settings import SETTINGS
from artifactfs.settings.parsers import is_descriptor, path
from artifactfs.settings.process_privacy import environment, secret_variables
from artifactfs.settings.schema import KEYS


def test_every_variable_of_a_key_is_a_secret() -> None:
    """6.1: all names by which a key, or the command that prints it, is given; those of new keys come by themselves."""
    names = {
        variable for setting in SETTINGS if setting.name.removesuffix("_command") in KEYS for variable in setting.env
    }
    assert {"DD_API_KEY", "DATADOG_APP_KEY", "ARTIFACTFS_ACCESS_TOKEN", "ARTIFACTFS_API_KEY_COMMAND"} <= names
    assert secret_variables(dict.fromkeys([*names, "HOME", "ARTIFACTFS_API_KEY_FILE", "DD_SITE"], "x")) == names


@pytest.mark.parametrize("name", ["ARTIFACTFS_PROXY", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "http_proxy"])
def test_a_proxys_password_is_a_secret(name: str) -> None:
    """6.1: a proxy is one where it has a password, whether artifactfs reads the variable or not."""
    assert secret_variables({name: "http://me:secret@proxy:3128"}) == {name}
    assert secret_variables({name: "http://proxy:3128"}) == set()


def test_an_environment_for_a_child() -> None:
    """6.1: what is started gets the keys where it is to mount, else all but the keys."""
    whole = {"DD_API_KEY": "x", "HOME": "/home", "https_proxy": "http://me:secret@proxy"}
    assert environment(keys=True, environ=whole) == whole
    assert environment(keys=False, environ=whole) == {name: whole[name] for name in ("HOME", "https_proxy")}


@pytest.mark.parametrize("named", ["/dev/fd/3", "/dev/stdin", "/proc/self/fd/9", "/proc/12/fd/63"])
def test_a_path_that_is_a_descriptor(named: str) -> None:
    """5.6: these name what the caller has open."""
    assert is_descriptor(named)
    assert not is_descriptor(f"{named}/x")
    assert not is_descriptor(f"/home{named}")


def test_a_descriptor_of_a_file_is_that_file(tmp_path: Path) -> None:
    """5.6: a setting that names an open file means the file, if it still has a path; else it stays as it is."""
    file = tmp_path / "file"
    file.touch()
    with file.open("rb") as opened:
        assert path(f"/dev/fd/{opened.fileno()}") == str(file)
        file.unlink()
        assert path(f"/dev/fd/{opened.fileno()}") == f"/dev/fd/{opened.fileno()}"
    reader, writer = os.pipe()
    assert path(f"/dev/fd/{reader}") == f"/dev/fd/{reader}"
    os.close(reader)
    os.close(writer)
