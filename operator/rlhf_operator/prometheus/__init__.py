"""Asks Prometheus: allowed addresses, requests, what an answer means. What is made of the figures is the kinds'."""
