"""The live judge: pairs and scores answers of a rollout while it serves. `python -m rlhf_server.livejudge`."""
