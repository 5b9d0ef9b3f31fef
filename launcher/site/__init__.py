"""What the cluster or this machine offers: site profiles and hardware."""
