"""One module per family of graders. They are built by `rlhf_scoring.build.build_scorers`."""
