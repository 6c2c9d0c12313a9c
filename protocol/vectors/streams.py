"""Whole connections: what comes in, what is said, and how it ends."""

from __future__ import annotations

import batch_streams
from bodies import Vector
from client_streams import clients
from server_streams import servers


def vectors() -> list[Vector]:
    """All of them."""
    return [
        {"name": name, "role": role, "steps": list(steps)}
        for role, rows in (
            ("server", [*servers(), *batch_streams.servers()]),
            ("client", [*clients(), *batch_streams.clients()]),
        )
        for name, steps in rows
    ]
