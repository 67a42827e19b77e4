"""How much memory a plan needs, before anything is loaded. What is measured while it runs is in progress.py."""
