"""What run directories hold, and which there are."""
