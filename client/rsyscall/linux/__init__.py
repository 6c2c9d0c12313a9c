"""The headers of <linux/...>."""
