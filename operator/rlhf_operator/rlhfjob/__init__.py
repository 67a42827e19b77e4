"""The RLHFJob controller: observe.py reads, reconcile.py decides, status.py reports. Its attempts are runs'."""
