"""Section 1 of the contract under every form that the service's documentation leaves open: the tree stays the same.

Each form is a fresh mount, because a mount learns how its server speaks. Source: model-lab-api.md, "accept every form".
"""

import errno
import itertools

import pytest

from artifactfs.emulator import sample
from tests.fixtures import Mounting
from tests.harness import Lab, Truth
from tests.pairwise import pairwise

# Namesakes of prefixes, the recorded run, empty directories, zero bytes, punctuation, names of 255 bytes, 40 levels,
# unicode: what a wrong reading loses.
RUNS = (80032, sample.RUN, 80014, 80011, 80002, 80003, 80012, 80001)
FILE = "lora_model/checkpoint-204/rng_state_0.pth"
DOUBLES = "names are both file and directory"


def tells(form: dict[str, object]) -> bool:
    """Say whether a form shows what is a directory, and what is in which one: no caller could tell in the others."""
    raw = (form["slash"], form["base"], form["depth"]) == ("required", "relative", "recursive")
    bare = (form["base"], form["self_marker"]) == ("relative", "bare")
    return bool(form["dir_slash"] or (form["dir_flag"] and not raw)) and not bare


# The switches that decide which names mean what, every two together. All of their combinations:
# tests/simulated/test_client_forms.py.
SHAPES = pairwise(
    {
        "path_start": ["none", "slash", "dot_slash", "mixed"],
        "slash": ["any", "required", "refused"],
        "self_marker": ["none", "slash", "bare"],
        "base": ["root", "relative"],
        "depth": ["one", "recursive"],
        "dir_slash": [True, False],
        "dir_flag": [True, False],
    },
    tells,
)
# Those that have nothing to do with one another, nor with the shape: each stands with one shape, at least.
OTHERS: list[dict[str, object]] = [
    {},
    {"size_form": "string", "extra_fields": True},
    {"size_form": "null_when_zero", "null_params": True},
    {"size_form": "absent_when_zero", "rate_limit_headers": False},
    {"empty_form": "null", "path_of_file": "self"},
    {"empty_form": "absent", "path_of_file": "404", "path_missing": "404"},
    {"path_of_file": "400", "path_missing": "404"},
    {"path_of_file": "400", "path_missing": "400"},
]
FORMS = [shape | other for shape, other in zip(SHAPES, itertools.cycle(OTHERS))]


def name_of(form: dict[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in form.items())


@pytest.mark.parametrize("form", [*FORMS, {"path_of_file": "500", "path_missing": "500"}], ids=name_of)
def test_every_form_shows_the_same_tree(form: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """1.1, 1.3, 1.4: whatever form the server's listings have, the tree is the server's, and a file in it is read.

    `/` and `./` in front of a path are no part of a name.
    """
    lab.switch(**form)
    mounted = mounting()
    mounted.log.announce(DOUBLES)

    assert mounted.trees(*RUNS) == {run_id: lab.truth(run_id) for run_id in RUNS}
    done = mounted.sh('sha256sum <"$M/runs/$1/$2"', sample.RUN, FILE).ok()
    assert done.text.split()[0] == lab.sha256(sample.RUN, FILE)
    assert set(lab.asked_with("content", "artifact_path")) == {f"f635c73b70594ab6bb6e212cdf87d0d5/artifacts/{FILE}"}
    # A bare marker may be a file: which of both is found out by trying. And where paths of one run begin differently,
    # an empty answer counts when each way was tried.
    if form.get("self_marker") != "bare" and form.get("path_start") != "mixed":
        assert not any(path.startswith(("/", ".")) for path in lab.asked_with("listing", "path"))


@pytest.mark.parametrize("base", ["root", "relative"])
def test_a_recursive_form_without_directories_shows_those_with_files(base: str, lab: Lab, mounting: Mounting) -> None:
    """1.1: where only files are listed, the directories in between are made; an empty one cannot be known."""
    lab.switch(depth="recursive", dir_rows=False, base=base)
    mounted = mounting()
    mounted.log.announce(DOUBLES)

    assert mounted.trees(*RUNS) == {run_id: without_empty_directories(lab.truth(run_id)) for run_id in RUNS}


def without_empty_directories(truth: Truth) -> Truth:
    files = [path for path, size in truth.items() if size is not None]
    return {
        path: size
        for path, size in truth.items()
        if size is not None or any(file.startswith(path + b"/") for file in files)
    }


def test_listings_without_sizes_show_the_same_tree(lab: Lab, mounting: Mounting) -> None:
    """1.1, 2.2: a listing without sizes shows the same names and kinds, and a lookup learns the sizes."""
    mounted = mounting("--prefetch", "off")
    for form, run_id in (("absent", sample.RUN), ("null", 80012)):
        lab.switch(size_form=form)
        assert mounted.tree(run_id) == lab.truth(run_id)


def test_the_form_is_learned_once(lab: Lab, mounting: Mounting) -> None:
    """1.1: a server that refuses the slash costs one more call for the first directory, not for each."""
    lab.switch(slash="refused")
    run_id = lab.new_run({f"d{i}/file.txt": 1 for i in range(10)})
    mounted = mounting("--prefetch", "off")
    mounted.walk("runs", run_id)

    assert lab.requests() == {"run": 1, "listing": 12}


def test_errors_in_every_form_are_absences(lab: Lab, mounting: Mounting) -> None:
    """1.2: an unknown run is ENOENT whatever the error's body looks like."""
    mounted = mounting()
    for unknown, form in enumerate(("object", "strings", "title_only", "html", "empty", "nonsense"), 12345):
        lab.switch(error_form=form)
        assert mounted.error_of("runs", unknown) == errno.ENOENT, form

    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
