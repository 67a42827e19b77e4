"""The way to the API server: client, credentials, caches fed by list and watch."""
