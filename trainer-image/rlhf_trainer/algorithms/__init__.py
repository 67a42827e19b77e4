"""The algorithms: tensor mathematics and the steps made of it. Processes, files and engines live elsewhere."""
