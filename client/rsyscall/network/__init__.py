"""Sockets that connect processes."""
