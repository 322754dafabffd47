"""What is in a file: open files, fetching, and the cache on disk. No pyfuse3, no httpx."""
