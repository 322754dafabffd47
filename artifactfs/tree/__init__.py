"""What exists: nodes, their names and attributes, and how long they are cached. No pyfuse3, no httpx."""
