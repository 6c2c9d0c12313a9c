"""What the tests of the protocol share: test vectors, the compiled decoder, a server to talk to."""

from __future__ import annotations

import array
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from frames import unread
from rsyscall._raw import ffi, lib
from rsyscall.tasks.spawn import stub_path
from rsyscall_protocol import (
    TRANSITIONS,
    Argument,
    Batch,
    Batched,
    BatchFlag,
    Bell,
    Bye,
    Call,
    CallFlag,
    Cancel,
    Error,
    ErrorCode,
    Event,
    FdArg,
    Fds,
    Feature,
    Hello,
    In,
    InOut,
    Limits,
    MessageType,
    Out,
    Param,
    Prepare,
    Read,
    Ref,
    Result,
    Ret,
    Ring,
    Role,
    Run,
    Stall,
    Step,
    StepFlag,
    Struct,
    Unprepare,
    Watch,
    Write,
)

VECTORS = Path(__file__).parents[1] / "protocol" / "vectors"
SECONDS = 30  # nothing takes that long unless it hangs

Vector = dict[str, Any]

#: What each side may send, in whatever state.
SENT_BY = {
    role: frozenset(m for row in TRANSITIONS.values() for (r, m) in row if r is role)
    for role in Role
}


# ---- test vectors ----


def load(name: str) -> list[Vector]:
    """The vectors of a file."""
    return cast("list[Vector]", json.loads((VECTORS / f"{name}.json").read_text()))


def unhex(form: str | list[str | Vector]) -> bytes:
    """Bytes as a vector describes them."""
    parts = [form] if isinstance(form, str) else form
    return b"".join(
        bytes.fromhex(p) if isinstance(p, str) else bytes.fromhex(p["repeat"]) * p["times"]
        for p in parts
    )


def _argument(form: int | Vector) -> Argument:
    match form:
        case int():
            return form
        case {"IN": data}:
            return In(unhex(data))
        case {"OUT": size}:
            return Out(size)
        case {"INOUT": data}:
            return InOut(unhex(data))
        case {"RET": size}:
            return Ret(size)
        case {"FD": index}:
            return FdArg(index)
        case {"REF": [step, offset, width]}:
            return Ref(step, offset, width)
        case {"PARAM": index}:
            return Param(index)
        case {"STRUCT": data, "relocations": relocations, "outs": outs}:
            return Struct(
                unhex(data),
                tuple((offset, index) for offset, index in relocations),
                tuple((offset, length) for offset, length in outs),
            )
        case _:
            raise ValueError(f"no argument: {form}")


def _arguments(form: list[int | Vector]) -> tuple[Argument, ...]:
    return tuple(_argument(arg) for arg in form)


def _step(form: Vector) -> Step:
    ok, undo = form["ok"], form["undo"]
    return Step(
        form["nr"],
        _arguments(form["args"]),
        tuple(cast("list[int]", ok)) if isinstance(ok, list) else ok,
        StepFlag(form["flags"]),
        None if undo is None else (undo["nr"], _arguments(undo["args"])),
    )


def message(form: Vector, fds: Sequence[object] | None = None) -> Event:
    """The event that a vector describes; fds: what stands for its file descriptors."""
    fields = dict(form)
    kind = MessageType[fields.pop("type")]
    if "nfds" in fields:
        count = fields.pop("nfds")
        fields["fds"] = (None,) * count if fds is None else tuple(fds[:count])
    for name, read in _FIELDS.items():
        if name in fields:
            fields[name] = read(fields[name])
    if "flags" in fields:
        fields["flags"] = (CallFlag if kind is MessageType.CALL else BatchFlag)(fields["flags"])
    return _EVENTS[kind](**fields)


_FIELDS: dict[str, Callable[[Any], object]] = {
    "args": _arguments,
    "steps": lambda form: tuple(_step(step) for step in form),
    "outs": lambda form: tuple(unhex(out) for out in form),
    "limits": lambda form: Limits(**form),
    "features": Feature,
    "values": unhex,
    "statuses": unhex,
    "code": ErrorCode,
    "data": unhex,
}
_EVENTS: dict[MessageType, type[Event]] = {
    MessageType.HELLO: Hello,
    MessageType.CALL: Call,
    MessageType.RESULT: Result,
    MessageType.READ: Read,
    MessageType.WRITE: Write,
    MessageType.ERROR: Error,
    MessageType.BYE: Bye,
    MessageType.RING: Ring,
    MessageType.BELL: Bell,
    MessageType.FDS: Fds,
    MessageType.BATCH: Batch,
    MessageType.BATCHED: Batched,
    MessageType.PREPARE: Prepare,
    MessageType.RUN: Run,
    MessageType.UNPREPARE: Unprepare,
    MessageType.CANCEL: Cancel,
    MessageType.STALL: Stall,
    MessageType.WATCH: Watch,
}


# ---- the compiled decoder ----


def check_request(body: bytes) -> ErrorCode | None:
    """What the server's decoder has against a client's body, under the default limits."""
    code = lib.rs_check_request(ffi.from_buffer("uint8_t[]", body), len(body))
    return ErrorCode(code) if code else None


def recode(body: bytes) -> bytes | ErrorCode:
    """A msgpack value in its shortest form, by the server's codec."""
    out = bytearray(len(body))
    n = lib.rs_recode(
        ffi.from_buffer("uint8_t[]", body), len(body), ffi.from_buffer("uint8_t[]", out), len(out)
    )
    return ErrorCode(-n) if n < 0 else bytes(out[:n])


# ---- servers ----


class Peer:
    """A real server at the other end of a socketpair, and its end."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(SECONDS)
        with theirs:
            self._start(theirs)

    def _start(self, theirs: socket.socket) -> None:
        raise NotImplementedError

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """One write, with file descriptors on its first byte."""
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        assert self.socket.sendmsg([data], control) == len(data)

    def end(self) -> None:
        """No more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def receive(self) -> bytes:
        """The body of one frame; nothing at the end of the stream."""
        header = self._exactly(5)
        return self._exactly(int.from_bytes(header[1:], "big")) if header else b""

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            part = self.socket.recv(n - len(data))
            if not part:
                assert not data, f"the server ended inside a frame: {data!r}"
                break
            data += part
        return data

    def settle(self) -> None:
        """Return when the server has read all that was sent, acted upon it and gone to sleep."""
        deadline = time.monotonic() + SECONDS
        while unread(self.socket) or self.stat().read_text().rpartition(") ")[2][0] != "S":
            assert time.monotonic() < deadline, "the server neither reads nor sleeps"
            os.sched_yield()

    def stat(self) -> Path:
        """The file of /proc with the server's state."""
        raise NotImplementedError

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()
        self.join()

    def join(self) -> None:
        """Wait for the server to end."""
        raise NotImplementedError


class Stub(Peer):
    """The stub, in a process of its own."""

    def _start(self, theirs: socket.socket) -> None:
        self.process = subprocess.Popen([stub_path(), "--fd", "0"], stdin=theirs.fileno())

    def join(self) -> None:
        """Wait for the process to end, as it must."""
        assert self.process.wait(SECONDS) == 0

    def stat(self) -> Path:
        """Of the process."""
        return Path(f"/proc/{self.process.pid}/stat")


class Thread(Peer):
    """The server's loop in a thread of the tests."""

    def _start(self, theirs: socket.socket) -> None:
        fd = os.dup(theirs.fileno())
        self.thread = threading.Thread(target=lib.rs_serve, args=(fd,), daemon=True)
        self.thread.start()

    def join(self) -> None:
        """Wait for the thread to end, as it must."""
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()

    def stat(self) -> Path:
        """Of the thread."""
        return Path(f"/proc/self/task/{self.thread.native_id}/stat")
