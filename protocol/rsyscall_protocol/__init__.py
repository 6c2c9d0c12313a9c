"""What crosses the wire, and nothing else: no I/O, no system calls, no event loop.

SPEC.md, beside this package, is normative. A `Connection` is one end of a connection: give it the
events you want to send and the bytes and file descriptors you received, and it gives you bytes to
send and events that happened.
"""

from rsyscall_protocol._arguments import Argument, FdArg, In, InOut, Out, Ret, Struct, flatten
from rsyscall_protocol._codec import decode, encode
from rsyscall_protocol._connection import NEED_DATA, Connection, NeedData
from rsyscall_protocol._constants import (
    FEATURES,
    MAGIC,
    VERSION_MAX,
    VERSION_MIN,
    ArgumentType,
    CallFlag,
    ErrorCode,
    MessageType,
    Size,
)
from rsyscall_protocol._errors import LocalProtocolError, ProtocolError, RemoteProtocolError
from rsyscall_protocol._events import Bye, Call, Error, Event, Hello, Read, Request, Result, Write
from rsyscall_protocol._limits import Limits
from rsyscall_protocol._state import TRANSITIONS, Role, State, diagram

__all__ = [
    "FEATURES",
    "MAGIC",
    "NEED_DATA",
    "TRANSITIONS",
    "VERSION_MAX",
    "VERSION_MIN",
    "Argument",
    "ArgumentType",
    "Bye",
    "Call",
    "CallFlag",
    "Connection",
    "Error",
    "ErrorCode",
    "Event",
    "FdArg",
    "Hello",
    "In",
    "InOut",
    "Limits",
    "LocalProtocolError",
    "MessageType",
    "NeedData",
    "Out",
    "ProtocolError",
    "Read",
    "RemoteProtocolError",
    "Request",
    "Result",
    "Ret",
    "Role",
    "Size",
    "State",
    "Struct",
    "Write",
    "decode",
    "diagram",
    "encode",
    "flatten",
]
