"""The judge: one HTTP API in front of whatever scores, a model's engine or graders. `python -m rlhf_server.judge`."""
