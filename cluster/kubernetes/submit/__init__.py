"""From a site profile and a plan to a release."""
