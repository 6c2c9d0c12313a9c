"""The headers of <net/...>."""
