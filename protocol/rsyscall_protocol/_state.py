"""The states of a connection.

The rules:

1. There is one machine, and both ends step it: by what they send as well as by what they receive.
2. The client speaks first. The server says nothing before it has heard HELLO, except why not.
3. Requests go one way and results the other, in any order, until the client says BYE. The server
   then answers what is still open, says BYE itself and ends the stream.
   Meanwhile the client may CANCEL what is under way. The server may say once that it will STALL.
4. When nothing is under way the client may ask, once, to go on in shared memory. The server says
   how that went before anything else is said. Beside the ring, BELL and FDS go over the socket.
5. Whoever sees a rule broken says ERROR and ends the stream; ERROR is not answered.
6. The end of the stream between two frames ends the connection in any state; within a frame it is
   an error.

Messages may cross: a RESULT that left before its sender heard BYE arrives in CLOSING, where it is
as welcome as in OPEN. That is why no state needs to know which side got there first.
"""

from __future__ import annotations

import enum

from rsyscall_protocol._constants import MessageType as M


class Role(enum.Enum):
    """Which end of a connection."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def peer(self) -> Role:
        """The other end."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class State(enum.Enum):
    """Where a connection stands."""

    IDLE = "IDLE"
    GREETED = "GREETED"
    OPEN = "OPEN"
    MOVING = "MOVING"
    CLOSING = "CLOSING"
    CLOSED = "CLOSED"
    FAILED = "FAILED"


C, S = Role.CLIENT, Role.SERVER

#: What may be sent by whom in which state, and the state after it.
TRANSITIONS: dict[State, dict[tuple[Role, M], State]] = {
    State.IDLE: {
        (C, M.HELLO): State.GREETED,
        (S, M.ERROR): State.FAILED,
    },
    State.GREETED: {
        (S, M.HELLO): State.OPEN,
        (C, M.ERROR): State.FAILED,
        (S, M.ERROR): State.FAILED,
    },
    State.OPEN: {
        (C, M.CALL): State.OPEN,
        (C, M.READ): State.OPEN,
        (C, M.WRITE): State.OPEN,
        (C, M.BATCH): State.OPEN,
        (C, M.PREPARE): State.OPEN,
        (C, M.RUN): State.OPEN,
        (C, M.UNPREPARE): State.OPEN,
        (C, M.CANCEL): State.OPEN,
        (C, M.WATCH): State.OPEN,
        (S, M.RESULT): State.OPEN,
        (S, M.BATCHED): State.OPEN,
        (S, M.STALL): State.OPEN,
        (C, M.RING): State.MOVING,
        (C, M.BYE): State.CLOSING,
        (C, M.ERROR): State.FAILED,
        (S, M.ERROR): State.FAILED,
    },
    State.MOVING: {
        (S, M.RESULT): State.OPEN,
        (C, M.ERROR): State.FAILED,
        (S, M.ERROR): State.FAILED,
    },
    State.CLOSING: {
        (S, M.RESULT): State.CLOSING,
        (S, M.BATCHED): State.CLOSING,
        (S, M.STALL): State.CLOSING,
        (S, M.BYE): State.CLOSED,
        (C, M.ERROR): State.FAILED,
        (S, M.ERROR): State.FAILED,
    },
    State.CLOSED: {},
    State.FAILED: {},
}


def diagram() -> str:
    """The table as a mermaid state diagram, as SPEC.md shows it."""
    lines = ["stateDiagram-v2", "    [*] --> IDLE"]
    for state, row in TRANSITIONS.items():
        arrows: dict[tuple[State, Role], list[str]] = {}
        for (role, message), after in row.items():
            arrows.setdefault((after, role), []).append(message.name)
        lines += [
            f"    {state.value} --> {after.value}: {role.value} {', '.join(names)}"
            for (after, role), names in arrows.items()
        ]
        lines += [] if row else [f"    {state.value} --> [*]"]
    return "\n".join(lines)
