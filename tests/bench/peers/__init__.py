"""Peers that are measured beside us: scripts that run in an environment of their own, and the making of it."""
