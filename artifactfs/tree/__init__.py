"""What exists: places, their names and attributes, and how long they are believed. No pyfuse3, no httpx."""
