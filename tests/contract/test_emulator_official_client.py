"""The official datadog-api-client reads every endpoint of a served emulator.

It checks types and required fields by its own models, which were generated from the service's specification: what it
reads without complaint has the documented shape.
"""

from collections.abc import Iterator
from typing import Any

import datadog_api_client
import pytest
from datadog_api_client.exceptions import ApiException, ForbiddenException, NotFoundException
from datadog_api_client.v2.api import model_lab_api_api
from datadog_api_client.v2.model.model_lab_facet_type import ModelLabFacetType
from datadog_api_client.v2.model.model_lab_project_facet_type import ModelLabProjectFacetType
from datadog_api_client.v2.model.model_lab_run_status import ModelLabRunStatus

from tests.contract.test_emulator_served import Served, serving

# All of Model Lab is a preview: the client says so at every call.
pytestmark = pytest.mark.filterwarnings("ignore:Using unstable operation:UserWarning")

# The client's calls have no types: without Any, mypy --strict would refuse each one.
CONFIGURATION: Any = datadog_api_client.Configuration
API_CLIENT: Any = datadog_api_client.ApiClient
MODEL_LAB: Any = model_lab_api_api.ModelLabAPIApi


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """One emulator with the sample for the whole module."""
    with serving() as emulator:
        yield emulator


def connect(served: Served, **keys: str) -> Any:
    """An ApiClient for the emulator, with its keys or those given."""
    configuration: Any = CONFIGURATION(host=served.told["url"])
    configuration.server_index = None
    configuration.api_key["apiKeyAuth"] = keys.get("api_key", served.told["api_key"])
    configuration.api_key["appKeyAuth"] = keys.get("app_key", served.told["app_key"])
    for operation in configuration.unstable_operations.values:
        if "model_lab" in operation:
            # Without its "v2.": the client (2.62) sets the full name and then complains that it does not know it.
            configuration.unstable_operations[operation.partition(".")[2]] = True
    return API_CLIENT(configuration)


@pytest.fixture(scope="module")
def api(served: Served) -> Iterator[Any]:
    """The official client, pointed at the emulator."""
    with connect(served) as client:
        yield MODEL_LAB(client)


def test_it_reads_a_run(api: Any) -> None:
    """get_model_lab_run: the recorded run, with times, status, params and tags typed."""
    run = api.get_model_lab_run(70158).data
    assert (run.id, str(run.attributes.status), run.attributes.project_id) == ("70158", "completed", 2387)
    assert run.attributes.completed_at.year == 2026
    assert run.attributes.params[0].key == "_name_or_path"


def test_it_reads_every_run_of_the_sample(api: Any) -> None:
    """list_model_lab_runs: every page, every row, awkward ones too, followed by next_number."""
    ids: list[str] = []
    number: int | None = 0
    while number is not None and number < 10:
        page = api.list_model_lab_runs(page_size=100, page_number=number)
        ids += [row.id for row in page.data]
        number = page.meta.page.next_number
    assert len(ids) == len(set(ids)) == page.meta.page.total
    assert {"70158", "80001", "80024", "80031"} <= set(ids)


def test_it_filters_runs(api: Any) -> None:
    """list_model_lab_runs with filters, in the form in which the client sends them."""
    running = api.list_model_lab_runs(filter_status=ModelLabRunStatus.RUNNING, sort="name").data
    assert {row.id for row in running} == {"71355", "80021"}
    assert [row.id for row in api.list_model_lab_runs(filter_project_id=2387).data] == ["70158"]
    assert [row.id for row in api.list_model_lab_runs(filter_id="70158,80001", sort="-updated_at").data] == [
        "80001",
        "70158",
    ]


def test_it_reads_projects(api: Any) -> None:
    """list_model_lab_projects and get_model_lab_project."""
    projects = api.list_model_lab_projects(page_size=100).data
    assert {"2387", "3001"} <= {project.id for project in projects}
    assert api.get_model_lab_project(2387).data.attributes.name == "ft-gpt2-smoke-1778812860"


@pytest.mark.parametrize("run", [70158, 80001, 80002, 80003, 80011, 80014, 80016, 80032])
def test_it_lists_a_run(api: Any, run: int) -> None:
    """list_model_lab_run_artifacts: the root, and each directory by the path that the listing gave."""
    attributes = api.list_model_lab_run_artifacts(run).data.attributes
    assert attributes.path_in_project.endswith("/artifacts")
    for row in attributes.files:
        if row.is_dir:
            below = api.list_model_lab_run_artifacts(run, path=row.path).data.attributes.files
            assert all(found.path.startswith(row.path) for found in below)


@pytest.mark.parametrize("project", [2387, 3001, 3002])
def test_it_lists_a_project(api: Any, project: int) -> None:
    """list_model_lab_project_artifacts: names, paths and typed times."""
    for row in api.list_model_lab_project_artifacts(project).data.attributes.files:
        assert row.artifact_path.endswith("/" + row.filename)
        assert row.created_at.year == 2026


def test_it_reads_content(served: Served, api: Any) -> None:
    """get_model_lab_artifact_content: what two listings compose into a path is a file."""
    run = api.get_model_lab_run(80002).data.attributes
    listing = api.list_model_lab_run_artifacts(80002).data.attributes
    truth = served.client.get("/_emulator/tree", params={"run": "80002"}).json()
    for row in listing.files:
        if not row.is_dir:
            path = f"{listing.path_in_project}/{row.path}"
            with api.get_model_lab_artifact_content(str(run.project_id), path) as file:
                assert len(file.read()) == row.file_size == truth[row.path]


def test_it_reads_facets(api: Any) -> None:
    """The four facet endpoints."""
    assert "team" in api.list_model_lab_project_facet_keys().data.attributes.tags
    assert "epoch" in api.list_model_lab_run_facet_keys(2387).data.attributes.metrics
    assert api.list_model_lab_project_facet_values(ModelLabProjectFacetType.TAG, "model").data.attributes.values == []
    values = api.list_model_lab_run_facet_values(2387, ModelLabFacetType.TAG, "mlflow.user").data.attributes.values
    assert values == ["dog"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: api.get_model_lab_run(9999999),
        lambda api: api.list_model_lab_run_artifacts(9999999),
        lambda api: api.get_model_lab_project(9999999),
        lambda api: api.list_model_lab_project_artifacts(9999999),
        lambda api: api.get_model_lab_artifact_content("2387", "0" * 32 + "/artifacts/x"),
    ],
)
def test_it_understands_a_404(api: Any, ask: Any) -> None:
    """What is not there is the client's NotFoundException, its body the recorded one."""
    with pytest.raises(NotFoundException) as caught:
        ask(api)
    assert "not found" in str(caught.value.body)


def test_it_understands_wrong_keys(served: Served) -> None:
    """Wrong keys are the client's ForbiddenException."""
    with connect(served, api_key="wrong") as client, pytest.raises(ForbiddenException):
        MODEL_LAB(client).get_model_lab_run(70158)


@pytest.mark.parametrize("then", [{"status": 400}, {"status": 500}, {"rate_limit": {"reset_s": 60}}])
@pytest.mark.parametrize("form", ["object", "strings", "title_only", "html", "empty"])
def test_it_understands_other_errors(served: Served, api: Any, then: dict[str, Any], form: str) -> None:
    """Each form of error body is an ApiException with the status and, at a 429, the reset.

    Except error_form=nonsense: the client (2.62) itself fails to decode a body that is not UTF-8.
    """
    served.order("switches", {"error_form": form})
    served.order("faults", [{"match": {}, "times": 1, "then": then}])
    with pytest.raises(ApiException) as caught:
        api.get_model_lab_run(70158)
    served.order("switches", {"error_form": "object"})
    assert caught.value.status == then.get("status", 429)
    if "rate_limit" in then:
        headers = {name.lower(): value for name, value in caught.value.headers.items()}
        assert headers["x-ratelimit-reset"] == "60"
