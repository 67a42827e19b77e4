"""Where users' Python graders run: a fork server, its workers, and the fence around them.

Protection from accidents, not a security boundary: hostile code belongs behind HTTP.
Everything but pool.py runs in the helper processes and imports the standard library only.
"""
