"""What tests of the judge share: version directories, the judge and vLLM as processes. No tests here."""
