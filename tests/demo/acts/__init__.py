"""The acts of the whole loop, one module each: rewards, policies, traffic, candidates. loop.py plays them in turn."""
