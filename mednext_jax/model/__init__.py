"""The network: its configuration and its blocks."""
