"""What only the submitting machine needs: site profiles, what is shipped, how something missing is installed."""
