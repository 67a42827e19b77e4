"""GRPO and RLOO: TRL's own trainers, given our responses and rewards. Their mathematics is TRL's."""
