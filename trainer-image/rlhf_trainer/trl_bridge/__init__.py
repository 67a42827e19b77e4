"""TRL's trainers under our plan: what every one of them shares. What an algorithm adds is beside its own settings."""
