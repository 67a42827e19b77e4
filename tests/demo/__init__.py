"""The demo behind `make demo`: everything around the training run that a newcomer watches. No product code."""

import os

# DeepSpeed, which transformers imports, would warn on every machine without a GPU.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
