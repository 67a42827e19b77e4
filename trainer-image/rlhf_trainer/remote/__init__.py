"""Models and data from hubs and object stores, and artifacts to them. What the files mean is read elsewhere."""
