"""Servers outside a cluster, on this machine: a hub for models and data, and an S3 store."""
