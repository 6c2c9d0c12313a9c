"""A client of the stub from protocol/SPEC.md alone: socket and msgpack, and nothing of rsyscall.

python docs/minimal_client.py PATH-OF-RSYSCALL-STUB
"""

import socket
import subprocess
import sys

import msgpack

HELLO, CALL, BYE = 1, 2, 7
IN, RET = 1, 5  # arguments: bytes for the call to read; room for bytes it returns
GETPID, READLINK, ROOM = 39, 89, 4096  # on x86_64

ours, theirs = socket.socketpair()
stub = subprocess.Popen([sys.argv[1], "--fd", "0"], stdin=theirs)
theirs.close()
stream = ours.makefile("rb")


def exchange(*message):
    """Send one message and read the answer to it."""
    body = msgpack.packb(message)
    ours.sendall(b"\xce" + len(body).to_bytes(4, "big") + body)
    return msgpack.unpackb(stream.read(msgpack.unpackb(stream.read(5))))


with ours, stream:
    hello = exchange(HELLO, "rsyscall", 1, 1, 0, {})
    assert hello[:5] == [HELLO, "rsyscall", 1, 1, 0], hello
    assert hello[5]["arch"] == "x86_64", hello
    print("getpid:", exchange(CALL, 1, 0, 0, GETPID, []))
    path = msgpack.ExtType(IN, b"/proc/self/exe\0")
    room = msgpack.ExtType(RET, ROOM.to_bytes(4, "big"))
    print("readlink:", exchange(CALL, 2, 0, 0, READLINK, [path, room, ROOM]))
    assert exchange(BYE) == [BYE]
print("stub: pid", stub.pid, "exit status", stub.wait())
