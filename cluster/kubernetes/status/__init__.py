"""Where a run is: what the API says about its objects, and why it waits."""
