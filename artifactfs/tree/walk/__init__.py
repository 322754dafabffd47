"""Listings ahead of a traversal: the project index and the prefetcher."""
