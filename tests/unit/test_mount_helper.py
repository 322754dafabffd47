"""artifactfs.cli.mount_helper: mount(8)'s command line, and what SPEC stands for."""

import pytest

from artifactfs.cli.mount_helper import Request, meaning, parse
from artifactfs.errors import ExitCode, UserError


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(arguments)
    assert caught.value.code is ExitCode.USAGE
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def heeded(options: str, *more: str) -> tuple[str, ...]:
    return parse(["eu", "/mnt", *more, "-o", options]).options


def request(spec: str, *options: str) -> Request:
    return Request(spec, "/mnt", options, fake=False, verbose=False)


def test_the_command_line_of_mount() -> None:
    """Options follow the two words, as mount(8) writes them; -n, -w, -r and -t say nothing new."""
    found = parse(
        ["eu", "/mnt", "-s", "-f", "-n", "-v", "-w", "-t", "fuse.artifactfs", "-o", "ro,umask=027", "-o", "ro"]
    )
    assert (found.spec, found.point, found.fake, found.verbose) == ("eu", "/mnt", True, True)
    assert found.options == ("umask=027",)
    assert parse(["-o", "ro", "eu", "/mnt"]).spec == "eu"


@pytest.mark.parametrize("arguments", [(), ("eu",), ("eu", ""), ("", "/mnt"), ("a", "b", "c"), ("eu", "/mnt", "-x")])
def test_a_command_line_that_is_none(arguments: tuple[str, ...]) -> None:
    """A wrong call by hand prints the usage."""
    assert "SPEC DIR" in refusal(*arguments)


def test_what_mount_and_fstab_add_is_tolerated() -> None:
    """What mount(8) adds by itself, and what is for fstab's other readers, never fails a mount."""
    assert heeded("rw,noexec,nosuid,nodev,exec,suid,dev,relatime,user=alice,users,noauto,auto,defaults,owner") == (
        "noexec",
    )
    assert heeded("x-systemd.automount,X-mount.mkdir,comment=a b,uhelper=udisks2,_netdev,nofail,listing-ttl=5") == (
        "_netdev", "nofail", "listing-ttl=5",
    )  # fmt: skip
    assert heeded(r"api_key_command=print a\,b,ro,config=/a,profile=eu") == (
        r"api_key_command=print a\,b", "config=/a", "profile=eu",
    )  # fmt: skip
    assert heeded("") == heeded(",,") == ()


def test_unknown_options() -> None:
    """They go on, to be refused with the nearest known one; `-s` leaves them out, and only them."""
    assert heeded("listing_tll=5,umask=7") == ("listing_tll=5", "umask=7")
    assert heeded("listing_tll=5,umask=7,nofail,noexec,config=/a", "-s") == ("umask=7", "nofail", "noexec", "config=/a")


def test_what_cannot_be_done_is_said() -> None:
    """A remount, and a mount into another namespace."""
    assert "artifactfs umount" in refusal("eu", "/mnt", "-o", "remount,ro")
    assert "nsenter" in refusal("eu", "/mnt", "-N", "/proc/1/ns/mnt")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("eu", {"profile": "eu"}),
        ("https://api.example.com/x", {"api_url": "https://api.example.com/x"}),
        ("HTTP://127.0.0.1:8123", {"api_url": "HTTP://127.0.0.1:8123"}),
        ("datadoghq.eu", {"site": "datadoghq.eu"}),
        ("us3.datadoghq.com", {"site": "us3.datadoghq.com"}),
        ("ddog-gov.com", {"site": "ddog-gov.com"}),
        ("artifactfs", {}),
        ("none", {}),
        # A profile may be called anything.
        ("datadoghq.com", {"profile": "datadoghq.com"}),
    ],
)
def test_what_spec_stands_for(spec: str, expected: dict[str, str]) -> None:
    """A profile, an API URL, a site, or no more than a label."""
    assert meaning(request(spec), ("eu", "datadoghq.com")) == expected


def test_an_unknown_word_may_be_a_slip() -> None:
    """Where there are profiles the nearest is named; where there are none, or -o says where, any word is a label."""
    with pytest.raises(UserError, match="there is no profile 'staing'; did you mean staging") as caught:
        meaning(request("staing"), ("staging", "eu"))
    assert caught.value.code is ExitCode.USAGE
    assert meaning(request("staing"), ()) == {}
    for option in ("profile=eu", "site=datadoghq.eu", "api-url=https://a.example", "api_url=https://a.example"):
        assert meaning(request("staing", option), ("staging", "eu")) == {}
    # The end of a site's name is not the whole of it.
    assert meaning(request("evil-datadoghq.eu.example"), ()) == {}
