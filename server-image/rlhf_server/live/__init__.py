"""Live signals of a serving pod: what vLLM's server is wrapped in, what is recorded of it, and feedback about it."""
