"""What the methods cost, what they reach beside the papers, and what their labels weigh: each a `python -m` command."""
