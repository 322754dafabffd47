"""Section 1 of the contract under every form that the service's documentation leaves open: the tree stays the same.

Each form is a fresh mount, because a mount learns how its server speaks. Source: model-lab-api.md, "accept every form".
"""

import errno

import pytest

from artifactfs.emulator import sample
from tests.fixtures import Mounting
from tests.harness import Lab, Truth
from tests.pairwise import pairwise

# Namesakes of prefixes, the recorded run, empty directories, zero bytes, punctuation: what a wrong reading loses.
RUNS = (80032, sample.RUN, 80014, 80011, 80002)
DOUBLES = "names are both file and directory"

# One switch at a time, except for those that have nothing to do with one another.
SINGLE: list[dict[str, object]] = [
    {"dir_flag": False},
    {"self_marker": "slash"},
    {"self_marker": "bare"},
    {"size_form": "string", "extra_fields": True},
    {"size_form": "null_when_zero", "null_params": True},
    {"size_form": "absent_when_zero", "rate_limit_headers": False},
    {"empty_form": "null", "path_of_file": "self"},
    {"empty_form": "absent", "path_of_file": "404"},
    {"path_of_file": "400", "path_missing": "404"},
    {"path_of_file": "500", "path_missing": "500"},
    {"path_missing": "400"},
]
# The switches that decide which names mean what, every two together; the ones that only stand alone are above. All of
# their combinations: tests/simulated/test_client_forms.py.
MIXED: list[dict[str, object]] = pairwise(
    {
        "slash": ["any", "required", "refused"],
        "base": ["root", "relative"],
        "depth": ["one", "recursive"],
        "dir_slash": [True, False],
    }
)
ODD: list[dict[str, object]] = [
    {"slash": "required", "base": "relative", "self_marker": "slash", "empty_form": "absent"},
    {"slash": "required", "depth": "recursive", "path_of_file": "404", "path_missing": "404"},
    {"slash": "refused", "base": "relative", "self_marker": "slash", "dir_flag": False},
    {"slash": "required", "path_missing": "400", "empty_form": "null", "size_form": "string"},
    {"slash": "refused", "dir_slash": False, "path_of_file": "400", "path_missing": "404"},
]


def name_of(form: dict[str, object]) -> str:
    return ",".join(f"{name}={value}" for name, value in form.items())


@pytest.mark.parametrize("form", [*SINGLE, *MIXED, *ODD], ids=name_of)
def test_every_form_shows_the_same_tree(form: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """1.1: whatever form the server's listings have, the tree is the server's."""
    lab.switch(**form)
    mounted = mounting()
    mounted.log.announce(DOUBLES)

    assert mounted.trees(*RUNS) == {run_id: lab.truth(run_id) for run_id in RUNS}


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


@pytest.mark.parametrize("form", ["absent", "null"])
def test_listings_without_sizes_show_the_same_tree(form: str, lab: Lab, mounting: Mounting) -> None:
    """1.1, 2.2: a listing without sizes shows the same names and kinds, and a lookup learns the sizes."""
    lab.switch(size_form=form)
    mounted = mounting("--prefetch", "off")

    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)


@pytest.mark.parametrize("run_id", [80003, 80012, 80001])
@pytest.mark.parametrize("slash", ["required", "refused"])
def test_long_and_deep_names_survive_the_forms(slash: str, run_id: int, lab: Lab, mounting: Mounting) -> None:
    """1.1, 1.4: names of 255 bytes, 40 levels and unicode are asked for in the form that the server wants."""
    lab.switch(slash=slash, base="relative")
    mounted = mounting()

    assert mounted.tree(run_id) == lab.truth(run_id)


def test_the_form_is_learned_once(lab: Lab, mounting: Mounting) -> None:
    """1.1: a server that refuses the slash costs one more call for the first directory, not for each."""
    lab.switch(slash="refused")
    run_id = lab.new_run({f"d{i}/file.txt": 1 for i in range(10)})
    mounted = mounting("--prefetch", "off")
    mounted.walk("runs", run_id)

    assert lab.requests() == {"run": 1, "listing": 12}


@pytest.mark.parametrize("form", [{}, {"page_base": 1}, {"extra_fields": True}, {"null_params": True}], ids=name_of)
def test_pages_of_runs_in_every_form(form: dict[str, object], lab: Lab, mounting: Mounting) -> None:
    """1.2: /runs shows the 200 runs last updated, however the server counts its pages."""
    lab.switch(**form)
    mounted = mounting()

    shown = [name for name in mounted.sh('ls -f "$M/runs"').ok().text.split() if not name.startswith(".")]
    assert shown == list(map(str, lab.newest_runs(200)))


@pytest.mark.parametrize("form", ["object", "strings", "title_only", "html", "empty", "nonsense"])
def test_errors_in_every_form_are_absences(form: str, lab: Lab, mounting: Mounting) -> None:
    """1.2: an unknown run is ENOENT whatever the error's body looks like."""
    lab.switch(error_form=form)
    mounted = mounting()

    assert mounted.error_of("runs", 12345) == errno.ENOENT
    assert mounted.tree(sample.RUN) == lab.truth(sample.RUN)
