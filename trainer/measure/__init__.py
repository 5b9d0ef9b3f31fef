"""What one rank of a plan takes, in memory and in time, measured without the others."""
