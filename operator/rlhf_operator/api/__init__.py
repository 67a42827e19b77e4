"""The API types of the three kinds, what operator and trainer hand each other, and the CRD generator."""
