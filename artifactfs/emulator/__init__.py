"""A Model Lab server on loopback, for the demo and the tests.

Imports nothing else of artifactfs: a fake built on our own parser would share its mistakes. It is checked against the
recorded answers and by the official `datadog-api-client`. Needs the extra `artifactfs[demo]` (starlette, uvicorn).

    model.py, artifact_tree.py, disk.py, file_bodies.py    projects, runs, trees, file contents
    live.py                                  changes of files by script, while they are served
    sample.py, edge_cases.py, recorded/      the built-in sample
    switches.py, faults.py                   forms of the answers, and injected faults
    app.py, middleware.py, responses.py      routes, checks of every request, parts that answers share
    listing_route.py, records.py, filters.py, content_route.py, facets.py    the endpoints
    control_route.py, lab_state.py           /_emulator/: the control plane of the tests
    serve.py, wire.py, __main__.py           the port, the socket, the command
"""
