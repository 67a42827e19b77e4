"""The operator: reinforcement learning from feedback as Kubernetes resources."""
