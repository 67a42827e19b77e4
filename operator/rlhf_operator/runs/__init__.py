"""One run of a frozen plan through its attempts to a published record: what every kind that trains shares."""
