"""One module per family of graders. They are built by `rlhf_scoring.scorers.build_scorers`."""
