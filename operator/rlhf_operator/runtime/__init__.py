"""The shell around the controllers: queue, Lease, execution of plans, probes, metrics."""
