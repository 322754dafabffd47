"""Ports of loopback that stay a test's: also while no server of the test listens there."""

import socket


def held_port(port: int = 0) -> socket.socket:
    """Return a socket that has a port of 127.0.0.1 (0: a free one) and does not listen.

    Connections to the port are refused until a server listens at it, which it may with SO_REUSEADDR. Meanwhile the
    kernel gives the port to no process that wants any free one (measured in a network namespace of twenty ports, Linux
    6.18). A port that was only looked up is another test's once in thousands of binds.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", port))
    return held
