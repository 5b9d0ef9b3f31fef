"""What launcher, cluster and trainer share; it needs the standard library only and imports none of them."""
