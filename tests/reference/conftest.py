"""The fixtures for the mount of the reference model."""

from tests.fixtures import _shared_lab, lab

__all__ = ["_shared_lab", "lab"]
