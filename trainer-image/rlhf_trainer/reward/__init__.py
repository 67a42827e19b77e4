"""RewardModels: training from judgements, taking a model or graders, evaluating, and a version's files."""
