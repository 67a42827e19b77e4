"""Training of one resolved plan: processes, checkpoints, algorithms, artifacts. The plan itself is the operator's."""
