"""The headers of <sys/...>."""
