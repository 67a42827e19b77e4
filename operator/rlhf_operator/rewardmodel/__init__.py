"""The RewardModel controller: a run makes a version, its gate judges it, Deployments serve it."""
