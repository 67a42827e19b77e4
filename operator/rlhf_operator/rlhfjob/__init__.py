"""The RLHFJob controller: observe.py reads, reconcile.py decides, children.py renders, status.py reports."""
