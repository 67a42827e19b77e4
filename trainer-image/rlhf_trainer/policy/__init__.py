"""The models of a run: loading and saving them, and what training computes with them."""
