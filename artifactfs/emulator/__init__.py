"""A Model Lab of one's own, on loopback: for the demo and the tests.

Imports nothing else of artifactfs: a fake built on our own parser would share its mistakes. It is checked against the
recorded answers and by the official `datadog-api-client`. Needs the extra `artifactfs[demo]` (starlette, uvicorn).

    lab.py, disk.py, contents.py      what exists: projects, runs, trees, bytes
    sample.py, awkward.py, recorded/  the built-in sample
    switches.py, faults.py            how the service answers, and what goes wrong
    app.py, gate.py, answers.py       paths, what every request passes, what answers share
    listing.py, records.py, filters.py, content.py, facets.py    the endpoints
    control.py, state.py              /_emulator/: what a test asks and tells
    serve.py, wire.py, __main__.py    the port, the socket, the command
"""
