"""The trainings of an RLHFJob: what they share, and one file for each way to train."""
