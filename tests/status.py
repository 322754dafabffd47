"""What tests ask a mount about itself, always by a process that can be killed."""

import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.harness import Mount

# What `refresh` says.
KEPT = "the next access asks for new listings; cached contents are kept (--contents drops them)"


def report(mounted: Mount, name: str = "status.json", limit_s: float = 10.0) -> str:
    """Return a file of /.artifactfs."""
    return mounted.sh('cat "$M/.artifactfs/$1"', name, limit_s=limit_s).ok().text


def status(mounted: Mount) -> dict[str, Any]:
    """Return status.json."""
    told: dict[str, Any] = json.loads(report(mounted))
    return told


def refresh(mounted: Mount, *parts: object) -> None:
    """Run `artifactfs refresh` on a path of the mount; it must say what it keeps, and nothing else."""
    done = mounted.shell.run_forked("refresh", mounted.path(*parts)).ok()
    assert (done.text, done.err) == (f"{KEPT}\n", "")


def info(mounted: Mount, *parts: object) -> dict[str, Any]:
    """Return what `artifactfs info --json` says of a path of the mount."""
    told: dict[str, Any] = json.loads(mounted.shell.run_forked("info", "--json", mounted.path(*parts)).ok().text)
    return told


def metrics(mounted: Mount) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return every sample of `metrics`, as Prometheus' own parser reads it; each is there once."""
    samples = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(report(mounted, "metrics"))
        for sample in family.samples
    ]
    found = dict(samples)
    assert len(found) == len(samples)
    return found


def failed_requests(mounted: Mount, *outcomes: str) -> int:
    """Return how many requests ended with one of these outcomes; each attempt counts."""
    counted = {name: value for name, value in metrics(mounted).items() if name[0] == "artifactfs_requests_total"}
    return int(sum(value for (_, labels), value in counted.items() if dict(labels)["outcome"] in outcomes))
