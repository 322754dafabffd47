"""Small helpers without a domain: URLs, quantities for people, escaping, clocks, threads, memory headroom."""
