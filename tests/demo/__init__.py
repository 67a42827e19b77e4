"""The demo behind `make demo`: everything around the training run that a newcomer watches. No product code lives here."""
