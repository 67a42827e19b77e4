"""`kubectl rlhf`: steers and shows rollouts with the caller's own credentials. The operator's process is __main__."""
