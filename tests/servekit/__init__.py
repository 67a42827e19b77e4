"""Serving pods for tests: a tiny policy, the server as a process of its own, and judges that listen."""
