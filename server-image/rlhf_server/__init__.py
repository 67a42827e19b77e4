"""Serves a trained reward model."""
