"""Scoring of texts: graders, reward models and how they read their input. What trainer and judge must do alike."""
