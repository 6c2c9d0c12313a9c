"""The ways a call can leave: made right here, or sent to a server."""
