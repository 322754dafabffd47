"""What exists: places, their names and attributes, and for how long they are cached. No pyfuse3, no httpx."""
