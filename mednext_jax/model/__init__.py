"""The network: its configuration, its blocks, its files."""
