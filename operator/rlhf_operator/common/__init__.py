"""What controllers share and what they are: names, intents, protocols. Pure."""
