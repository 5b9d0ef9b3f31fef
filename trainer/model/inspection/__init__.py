"""What is found out about a model before it trains: whether it is whole, and how it must be run."""
