"""Human judgements: from raw rows to training pairs, statistics and the report. No model is run here."""
