"""The app: routes to handlers, each behind a Gate.

`create_app` is for tests in process (httpx.ASGITransport, under trio or asyncio); serve.py puts it behind a port.
"""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from artifactfs.emulator import content_route, control_route, facets, listing_route, records
from artifactfs.emulator.faults import Script
from artifactfs.emulator.lab_state import Emulator, Keys
from artifactfs.emulator.middleware import Gate
from artifactfs.emulator.model import Lab
from artifactfs.emulator.responses import missing
from artifactfs.emulator.switches import Switches

API = "/api/v2/model-lab-api"


def create_app(
    lab: Lab, switches: Switches | None = None, *, keys: Keys | None = None, script: Script | None = None
) -> Starlette:
    """Return the ASGI app that serves `lab`; its state is at `app.state.emulator`, an Emulator."""
    emulator = Emulator(lab, switches or Switches(), keys or Keys(), script or Script(), clock=lab.clock)
    plan = [
        ("runs", "/runs", records.runs),
        ("run", "/runs/{run_id}", records.one_run),
        ("listing", "/runs/{run_id}/artifacts", listing_route.run_artifacts),
        ("projects", "/projects", records.projects),
        ("project", "/projects/{project_id}", records.one_project),
        ("index", "/projects/{project_id}/artifacts", listing_route.project_artifacts),
        ("content", "/artifacts/content", content_route.content),
        ("facets", "/project-facet-keys", facets.project_keys),
        ("facets", "/project-facet-values", facets.project_values),
        ("facets", "/facet-keys", facets.run_keys),
        ("facets", "/facet-values", facets.run_values),
    ]
    routes = [Route(API + path, Gate(emulator, kind, handler)) for kind, path, handler in plan]
    storage = Route(content_route.STORAGE, Gate(emulator, "storage", content_route.stored, open_to_all=True))
    rest = Route("/{path:path}", Gate(emulator, "other", _unknown))
    app = Starlette(routes=[*control_route.routes(emulator), *routes, storage, rest])
    app.state.emulator = emulator
    return app


async def _unknown(emulator: Emulator, _request: Request) -> ASGIApp:
    return missing(emulator, "page")
