"""The PolicyRollout controller: one live policy behind one route, and the way from one revision to the next."""
