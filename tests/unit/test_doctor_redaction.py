"""What a bundle of the doctor may hold: the redactor, and the forms of answers, by planted words (6.6)."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from artifactfs.doctor import own_texts
from artifactfs.doctor.answer_forms import describe_body, describe_headers
from artifactfs.doctor.bundle import Bundle, release
from artifactfs.doctor.redaction import Redactor, log_lines
from artifactfs.settings import Arguments
from tests.leaks import forms

# Long enough that none is a part of artifactfs' own sentences by chance.
LETTERS = st.characters(whitelist_categories=("L", "N"), max_codepoint=0x2FFF)
SECRETS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["Zq", "ÄÖ", "密", "k3y", "0x"]),
    st.text(LETTERS, min_size=6, max_size=12),
    st.just("qZ"),
)
# Sentences of artifactfs, with holes.
SENTENCES = st.sampled_from(
    [
        "run {} cannot be listed: {}",
        "the mount at /home/{}/x{} is dead: its process was killed",
        "{}: Permission denied; `artifactfs status {}` shows the cause; try again",
        "cannot reach {}: Name or service not known",
        "https://{}.datadoghq.eu/a?key={} answered 403 ({})",
        "{} is a Model Lab and accepts the keys; it answered in 0.02 s through the proxy http://u:{}@p:1",
        "KeyError: '{}'",
        'File "/home/{}/artifactfs/{}.py", line 3, in {}',
        "GET {} /{}/{}: 200, 12 bytes, 1.0 ms",
        "read of /runs/{}/x at 4096, 100 bytes: {}, 1.0 ms",
        "mounted at {}; {} files",
        "{} {}",
        '-{}={}, ("{}")',
    ]
)


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, list[str]]:
    """Draw a text with planted words in one of their forms, and the words."""
    sentence = draw(SENTENCES)
    words = [draw(SECRETS) for _ in range(sentence.count("{}"))]
    shown = [
        draw(st.sampled_from([form.decode("latin-1") for form in forms(word).values()] + [word])) for word in words
    ]
    return sentence.format(*shown), words


def trees() -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        SECRETS, st.none(), st.booleans(), st.integers(10**9, 10**12), texts().map(lambda drawn: drawn[0])
    )
    names = st.one_of(SECRETS, st.sampled_from(["state", "message", "files", "project_id"]))
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


def planted(value: object) -> list[str]:
    """Return the words and ids in a tree."""
    if isinstance(value, Mapping):
        return [word for name, inner in value.items() for word in (*planted(name), *planted(inner))]
    if isinstance(value, list):
        return [word for inner in value for word in planted(inner)]
    is_id = isinstance(value, int) and not isinstance(value, bool)
    return [str(value)] if is_id or (isinstance(value, str) and value.endswith("qZ")) else []


def assert_absent(words: list[str], shown: object) -> None:
    text = (json.dumps(shown) + json.dumps(shown, ensure_ascii=False)).lower()
    for word in words:
        for name, form in forms(word).items():
            assert form.decode("latin-1").lower() not in text, (name, shown)
        assert word.lower() not in text, shown


@given(texts())
def test_no_planted_word_is_in_a_text(drawn: tuple[str, list[str]]) -> None:
    """6.6: names, hosts, keys and paths within error texts, in any encoding, are replaced."""
    text, words = drawn
    assert_absent(words, Redactor().text(text))


LOGGERS = ["artifactfs.modellab.request_log", "artifactfs.fuse.trace", "artifactfs.mount.session", ""]


@given(texts(), st.sampled_from(["text", "json", "bare"]), st.sampled_from(LOGGERS))
def test_no_planted_word_is_in_a_log(drawn: tuple[str, list[str]], form: str, logger: str) -> None:
    """6.6: so are those of log lines, in both formats, and of lines that are none."""
    text, words = drawn
    logger = logger or words[0]
    line = {
        "text": f"2026-11-29 17:00:00,123 WARNING {logger}: {text}",
        "json": json.dumps(
            {"time": words[0], "level": words[0], "logger": logger, "message": text, "exception": f"{text}\n{text}"}
        ),
        "bare": text,
    }[form]
    shown = list(log_lines([line, text], Redactor()))
    assert len(shown) >= 2
    assert_absent(words, shown)


@given(trees())
def test_no_planted_word_is_in_a_tree(tree: Any) -> None:
    """6.6: of JSON, unknown keys, texts and ids are replaced wherever they stand."""
    known = {"state", "message", "files", "project_id"}
    shown = Redactor().value(tree, keys=known, numbers=frozenset(), words={"state": frozenset({"ok"})})
    assert_absent(planted(tree), shown)


@given(trees(), st.dictionaries(st.text(LETTERS, min_size=8).map(lambda name: f"X-{name}qZ"), SECRETS, max_size=4))
def test_no_planted_word_is_in_the_forms_of_answers(tree: Any, more: dict[str, str]) -> None:
    """6.6: an answer's body and headers are described without a name or value that a user or a proxy gave."""
    redactor = Redactor()
    assert_absent(planted(tree), describe_body(json.dumps(tree).encode(), redactor, directory="x"))
    headers = {
        "etag": '"qqZZkeyZZqq"',
        "location": "https://bucket-zzqq.s3.example/a?sig=zzqq",
        "server": "zzqq",
        **more,
    }
    shown = describe_headers(headers, redactor)
    assert_absent(["qqZZkeyZZqq", "zzqq", *more.values(), *more], shown)
    assert shown["etag"] == "quoted, text, 13 characters"
    assert shown["location"] == "https://name1"


def test_the_same_is_replaced_by_the_same() -> None:
    """A name has one replacement in texts and paths, so that the structure stays readable."""
    redactor = Redactor()
    assert redactor.path("/home/anna/runs/anna") == "/name1/name2/runs/name2"
    assert redactor.text("run anna cannot be listed: /home/anna") == "run name2 cannot be listed: /name1/name2"
    assert redactor.name("") == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("run 70158 cannot be listed: api.datadoghq.eu answered 404 (run not found)",
         "run name1 cannot be listed: api.datadoghq.eu answered 404 (name2)"),
        ("app.acme.datadoghq.com: Permission denied", "name1: Permission denied"),
        ("cannot reach acme.datadoghq.com: Name or service not known", "cannot reach name1: Name or service not known"),
        ("http://127.0.0.1:8123 is a Model Lab and accepts the keys; it answered in 0.02 s",
         "http://loopback is a Model Lab and accepts the keys; it answered in 0.02 s"),
        ("the project's listing names 5 files (12 KiB), in 0.02 s, and agrees with the directories",
         "the project's listing names 5 files (12 KiB), in 0.02 s, and agrees with the directories"),
        ("/dev/fuse exists and opens", "/dev/fuse exists and opens"),
        ("KeyError: 'x'", "KeyError: 'name1'"),
    ],
)  # fmt: skip
def test_what_stays_readable(text: str, shown: str) -> None:
    """artifactfs' own sentences, measures, statuses and Datadog's API hosts remain."""
    assert Redactor().text(text) == shown


def test_a_traceback_stays_readable() -> None:
    """Of a traceback the modules of artifactfs and the lines remain; other files are replaced."""
    lines = ['  File "/opt/x/artifactfs/tree/tree.py", line 12, in f', '  File "/home/anna/b.py", line 7, in g']
    assert list(log_lines(lines, Redactor())) == ["  artifactfs.tree.tree, line 12", "  /name1/name2/name3, line 7"]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("DEBUG artifactfs.modellab.request_log: GET listing /runs/7/artifacts?path=a%2F: 404, 68 bytes, 1.9 ms",
         "DEBUG artifactfs.modellab.request_log: GET listing /runs/name1/name2: 404, 68 bytes, 1.9 ms"),
        ("DEBUG artifactfs.fuse.trace: read of /runs/7/a at 4096, 131072 bytes: EIO, 1.0 ms",
         "DEBUG artifactfs.fuse.trace: read of /runs/name1/name2, 131072 bytes: EIO, 1.0 ms"),
        ("WARNING artifactfs.acme.x: run 7 cannot be listed: acme", "WARNING name1: run name2 cannot be listed: name3"),
        ("SECRET artifactfs.fuse.trace: x", "name1 artifactfs.fuse.trace: name2"),
    ],
)  # fmt: skip
def test_a_log_stays_readable(line: str, shown: str) -> None:
    """Of a log remain times, levels, loggers, requests and calls with their outcome, sizes and times."""
    when = "2026-11-29 17:00:00,123"
    assert list(log_lines([f"{when} {line}"], Redactor())) == [f"{when} {shown}"]


def test_the_templates_are_of_artifactfs() -> None:
    """Sentences of several modules are found, none of the emulator's sample, and no single word."""
    found = own_texts.templates()
    assert ("run ", " cannot be listed: ") in found
    assert not any("lora_model" in part for parts in found for part in parts)
    assert all(" " in "".join(parts) for parts in found)


def test_an_interrupted_bundle_leaves_no_file(tmp_path: Path) -> None:
    """A file that was made before the checks goes with them."""
    file = tmp_path / "bundle"
    bundle = Bundle(str(file), Arguments(flags={}, options="", config_file=None), None)
    assert file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyboardInterrupt), bundle:
        raise KeyboardInterrupt
    assert not file.exists()


@pytest.mark.parametrize(
    ("release_text", "shown"),
    [("6.1.0-18-amd64", "6.1.0-18-amd64"), ("6.6.9-acme-gpu01+", "6.6.9-…-…-…"), ("acme", "…")],
)
def test_a_kernel_that_is_named_after_its_owner(release_text: str, shown: str) -> None:
    assert release(release_text) == shown
